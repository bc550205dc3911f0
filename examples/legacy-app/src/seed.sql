-- A shop that has been open for a while. Only run when `accounts` is empty. Everybody's password is `banyan`.
INSERT INTO accounts (name, email, password_hash, created_at)
SELECT name, name || '@shop.example',
       'pbkdf2$1000$shop-seed$0dae3faff7f8d11936393a049c6a43ca69784a2d45ea8ef886cba51ac95f43d8',
       '2026-01-05 08:00:00+00'
FROM unnest(ARRAY['ann', 'ben', 'cem', 'dora', 'eve', 'finn', 'gus', 'hana']) WITH ORDINALITY AS a (name, n)
ORDER BY n;

INSERT INTO inventory (sku, title, price, stock) VALUES
    ('fig-tree', 'Fig tree, one metre', 39.50, 40),
    ('fig-jam', 'Fig jam, 340 g', 5.49, 900),
    ('pot-clay', 'Clay pot', 12.00, 120),
    ('pot-zinc', 'Zinc pot', 18.90, 75),
    ('soil-20', 'Soil, 20 l', 7.99, 300),
    ('shears', 'Pruning shears', 24.95, 60);

INSERT INTO payments (account_id, amount, status, note, created_at)
SELECT n % 8 + 1,
       (n * 7 % 90 + 10)::numeric + (n % 10) / 10.0,
       CASE WHEN n % 9 = 0 THEN 'refunded' WHEN n % 4 = 0 THEN 'open' ELSE 'paid' END,
       'order ' || n,
       timestamptz '2026-02-01 09:00:00+00' + n * interval '37 minutes'
FROM generate_series(1, 120) AS s (n)
ORDER BY n;

INSERT INTO orders (account_id, sku, quantity, price, created_at)
SELECT n % 8 + 1, sku, n % 3 + 1, price, timestamptz '2026-02-01 08:55:00+00' + n * interval '37 minutes'
FROM generate_series(1, 60) AS s (n)
JOIN LATERAL (SELECT sku, price FROM inventory ORDER BY sku OFFSET n % 6 LIMIT 1) AS i ON true
ORDER BY n;
