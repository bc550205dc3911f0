-- The same where the monolith's database is MariaDB or MySQL. In the file: `legacy: {mysql: "${LEGACY_DB_URL}"}`, and the table as `database.customers`.
CREATE TABLE customers (
  id bigint PRIMARY KEY,
  name varchar(200) NOT NULL,
  email varchar(200) NOT NULL,
  street varchar(200),
  zip varchar(20),
  city varchar(200),
  notes longtext
) CHARACTER SET utf8mb4;
