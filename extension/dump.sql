-- What pg_dump takes along: models and their vocabularies. The rest comes back with CREATE EXTENSION.

SELECT pg_extension_config_dump('gpt2.tokenizer', 'WHERE tokenizer > 1');
SELECT pg_extension_config_dump('gpt2.token', 'WHERE tokenizer > 1');
SELECT pg_extension_config_dump('gpt2.merge', 'WHERE tokenizer > 1');
SELECT pg_extension_config_dump('gpt2.model', '');
SELECT pg_extension_config_dump('gpt2.token_page', '');
SELECT pg_extension_config_dump('gpt2.wpe_row', '');
SELECT pg_extension_config_dump('gpt2.layer_norm_row', '');
SELECT pg_extension_config_dump('gpt2.bias_row', '');
SELECT pg_extension_config_dump('gpt2.linear_page', '');
SELECT pg_extension_config_dump(pg_get_serial_sequence('gpt2.tokenizer', 'tokenizer'), '');
SELECT pg_extension_config_dump(pg_get_serial_sequence('gpt2.model', 'model'), '');
SELECT pg_extension_config_dump(pg_get_serial_sequence('gpt2.model', 'edition'), '');
