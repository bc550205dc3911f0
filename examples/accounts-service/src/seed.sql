-- The accounts that were moved over when this service took them; the monolith has the same. Everybody's password is `banyan`.
INSERT INTO accounts (name, email, password_hash, created_at)
SELECT name, name || '@shop.example',
       'pbkdf2$1000$shop-seed$0dae3faff7f8d11936393a049c6a43ca69784a2d45ea8ef886cba51ac95f43d8',
       '2026-01-05 08:00:00+00'
FROM unnest(ARRAY['ann', 'ben', 'cem', 'dora', 'eve', 'finn', 'gus', 'hana']) WITH ORDINALITY AS a (name, n)
ORDER BY n;
