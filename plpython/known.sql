-- What somebody has hung on the tables of gpt2 before, as a trigger, is his: no reason to refuse.
SELECT pg_catalog.set_config('gpt2.known', (
    SELECT pg_catalog.array_agg(d::pg_catalog.text)::pg_catalog.text
    FROM gpt2._foreign_dependencies() AS d), true);
