-- What pg_dump takes along: models and their vocabularies. The rest comes back with CREATE
-- EXTENSION.

SELECT pg_extension_config_dump('gpt2.tokenizer', 'WHERE tokenizer > 1');
SELECT pg_extension_config_dump('gpt2.token', 'WHERE tokenizer > 1');
SELECT pg_extension_config_dump('gpt2.merge', 'WHERE tokenizer > 1');
SELECT pg_extension_config_dump('gpt2.model', '');
DO $$
DECLARE
    weights regclass;
BEGIN
    FOR weights IN SELECT t FROM gpt2._weight_tables() AS t LOOP
        PERFORM pg_extension_config_dump(weights, '');
    END LOOP;
END;
$$;
SELECT pg_extension_config_dump(pg_get_serial_sequence('gpt2.tokenizer', 'tokenizer'), '');
SELECT pg_extension_config_dump(pg_get_serial_sequence('gpt2.model', 'model'), '');
SELECT pg_extension_config_dump(pg_get_serial_sequence('gpt2.model', 'edition'), '');
