-- What the new service has instead: people, and the address of those who have one.
CREATE SCHEMA crm;

CREATE TABLE crm.people (
  id bigint PRIMARY KEY,
  name text NOT NULL,
  email text NOT NULL,
  notes text
);

CREATE TABLE crm.addresses (
  person_id bigint PRIMARY KEY REFERENCES crm.people,
  street text NOT NULL,
  zip text NOT NULL,
  city text NOT NULL
);

-- Banyan calls it with each change of `customers`. Every value is text, as the monolith's database writes it, or null.
CREATE FUNCTION crm.customer_changed(op text, old jsonb, new jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = crm AS $$
DECLARE
  -- Where the log does not say what a changed row was, its key is still the same.
  was bigint := coalesce(old ->> 'id', new ->> 'id');
  now_is bigint := new ->> 'id';
BEGIN
  IF op = 'truncate' THEN
    DELETE FROM addresses;
    DELETE FROM people;
    RETURN;
  END IF;
  IF op = 'delete' THEN
    DELETE FROM addresses WHERE person_id = was;
    DELETE FROM people WHERE id = was;
    RETURN;
  END IF;

  -- What this service does not want is refused: the change is parked, and all that comes to the same customer later.
  IF new ->> 'email' NOT LIKE '%@%' THEN
    RAISE EXCEPTION 'customer % has no e-mail address', now_is;
  END IF;

  -- Foreign keys neither check nor cascade here: both tables are kept in step by hand.
  IF was <> now_is THEN
    UPDATE people SET id = now_is WHERE id = was;
    UPDATE addresses SET person_id = now_is WHERE person_id = was;
  END IF;

  -- A row of a copy may be here already, and a long text that was not changed is not in `new`.
  INSERT INTO people (id, name, email, notes)
  VALUES (now_is, new ->> 'name', lower(new ->> 'email'), new ->> 'notes')
  ON CONFLICT (id) DO UPDATE SET
    name = excluded.name,
    email = excluded.email,
    notes = CASE WHEN new ? 'notes' THEN excluded.notes ELSE people.notes END;

  IF new ->> 'city' <> '' THEN
    INSERT INTO addresses (person_id, street, zip, city)
    VALUES (now_is, coalesce(new ->> 'street', ''), coalesce(new ->> 'zip', ''), new ->> 'city')
    ON CONFLICT (person_id) DO UPDATE SET street = excluded.street, zip = excluded.zip, city = excluded.city;
  ELSE
    DELETE FROM addresses WHERE person_id = now_is;
  END IF;
END $$;

-- The function runs with the rights of Banyan's role.
GRANT USAGE ON SCHEMA crm TO banyan;
GRANT SELECT, INSERT, UPDATE, DELETE ON crm.people, crm.addresses TO banyan;
