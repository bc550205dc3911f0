-- What the monolith has: one table for a customer and where they live.
CREATE TABLE customers (
  id bigint PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL,
  street text,
  zip text,
  city text,          -- empty where nobody has asked for the address yet
  notes text          -- may be long
);
