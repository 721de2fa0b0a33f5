-- What bad input gets: SQLSTATE, message, detail, hint.
\set SHOW_CONTEXT never
\set VERBOSITY default

-- no model is loaded
SELECT gpt2_generate('Happy New Year!');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_next_token('Happy New Year!');
SELECT gpt2_embeddings('{1}');
SELECT gpt2_block('{"[1]"}', 0);
SELECT gpt2_forward('{1}');

-- unknown model
SELECT gpt2_generate('x', model => 'absent');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_tokenize('x', 'absent');
SELECT gpt2_default_model('absent');
SELECT gpt2_drop_model('absent');
\echo :LAST_ERROR_SQLSTATE
SET gpt2.model = 'absent';
SELECT gpt2_detokenize('{1}');
RESET gpt2.model;

-- not in the vocabulary
SELECT gpt2_detokenize('{50256,50257}');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_detokenize('{-1}');
SELECT gpt2_detokenize('{1,NULL}');

-- A model of width 2, 2 blocks and 4 positions, so that there is something to ask.
BEGIN;
SELECT gpt2._add_model('tiny', '{
    "tokenizer": 1, "n_token": 50257, "bos_token": 50256, "eos_tokens": [50256],
    "n_vocab": 50257, "n_ctx": 4, "n_embd": 2, "n_head": 1, "n_layer": 2, "n_inner": 4, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "scale_attn_weights": true,
    "scale_attn_by_inverse_layer_idx": false, "tie_word_embeddings": true,
    "n_parameters": 100594, "dtype": "float32"}');
INSERT INTO gpt2.matrix_page
SELECT 1, -1, 'wte', 0, token / page_size, array_agg('[1,2]'::vector)
FROM generate_series(0, 50256) AS token, gpt2.model GROUP BY 5;
SELECT gpt2._finish_model(1);
ROLLBACK;
\echo :LAST_ERROR_SQLSTATE
BEGIN;
SELECT gpt2._add_model('tiny', '{
    "tokenizer": 1, "n_token": 50257, "bos_token": 50256, "eos_tokens": [50256],
    "n_vocab": 50257, "n_ctx": 4, "n_embd": 2, "n_head": 1, "n_layer": 2, "n_inner": 4, "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5, "scale_attn_weights": true,
    "scale_attn_by_inverse_layer_idx": false, "tie_word_embeddings": true,
    "n_parameters": 100594, "dtype": "float32"}') AS model \gset
INSERT INTO gpt2.matrix_page
SELECT :model, -1, 'wte', 0, token / page_size, array_agg('[1,2]'::vector)
FROM generate_series(0, 50256) AS token, gpt2.model GROUP BY 5;
INSERT INTO gpt2.wpe SELECT :model, n, '[1,2]' FROM generate_series(0, 3) AS n;
COMMIT;

-- name taken
SELECT gpt2._add_model('tiny', '{}');
\echo :LAST_ERROR_SQLSTATE

-- wider than a page
SELECT gpt2._add_model('wide', '{"n_embd": 2048, "dtype": "float32"}');
\echo :LAST_ERROR_SQLSTATE

-- too long
SELECT gpt2_generate('one two three four five');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_next_token('one two three four five');
SELECT gpt2_forward('{1,2,3,4,5}');
SELECT gpt2_embeddings('{1,2,3,4,5}');
SELECT gpt2_block('{"[1,1]","[1,1]","[1,1]","[1,1]","[1,1]"}', 0);

-- arguments of sampling
SELECT gpt2_generate('x', -1);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', NULL);
SELECT gpt2_generate('x', temperature => -0.5);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', temperature => 'NaN');
SELECT gpt2_generate('x', temperature => 'Infinity');
SELECT gpt2_generate('x', temperature => NULL);
SELECT gpt2_generate('x', top_k => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_next_token('x', -3);
SELECT gpt2_next_token('x', temperature => -1);

-- options of generation
SELECT gpt2_generate('x', top_p => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', min_p => 2);
SELECT gpt2_generate('x', typical_p => -1);
SELECT gpt2_generate('x', top_n_sigma => -1);
SELECT gpt2_generate('x', xtc_probability => 1.5);
SELECT gpt2_generate('x', xtc_threshold => 'NaN');
SELECT gpt2_generate('x', repetition_penalty => 0);
SELECT gpt2_generate('x', frequency_penalty => 'NaN');
SELECT gpt2_generate('x', presence_penalty => 'Infinity');
SELECT gpt2_generate('x', no_repeat_ngram_size => 0);
SELECT gpt2_generate('x', min_tokens => -1);
SELECT gpt2_generate('x', stop => '{x,""}');
SELECT gpt2_generate('x', logit_bias => '[]');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', logit_bias => '{"": 1}');
SELECT gpt2_generate('x', logit_bias => '{"x": true}');
SELECT gpt2_generate('x', logit_bias => '{"50257": 1}');
SELECT gpt2_generate('x', allowed_tokens => '{1,50257}');
SELECT gpt2_generate('x', banned_tokens => '{-1}');
SELECT gpt2_complete('x', n => 0);
\echo :LAST_ERROR_SQLSTATE

-- patterns
SELECT gpt2_generate('x', pattern => '(');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', pattern => 'a(?=b)');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', pattern => '(a)\1');
SELECT gpt2_generate('x', pattern => 'a\M');

-- prefixes
SELECT gpt2_generate('x', prefix => ROW(99, '{1}', '{1}', 0, NULL, NULL, NULL)::gpt2.prefix);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', prefix => ROW(model, '{0}', '{1}', 0, NULL, NULL, NULL)::gpt2.prefix)
FROM gpt2.model;
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', prefix => ROW(model, ARRAY[edition], '{1}', 0, NULL, NULL, NULL)::gpt2.prefix,
                     steer => ARRAY[ROW(0, NULL, '[1,1]', 1)::gpt2.steering])
FROM gpt2.model;
\echo :LAST_ERROR_SQLSTATE

-- tasks
SELECT gpt2_choose('x', '{a,""}');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_classify('one two', '{three four five}');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_perplexity('one two', stride => 5);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_embed('x', 'first');
SELECT gpt2_embed('x', block => 2);
SELECT gpt2_score('one two three four five');
\echo :LAST_ERROR_SQLSTATE

-- arguments of beam search
SELECT gpt2_beam('x', beams => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_beam_search('x', beams => 1001);
SELECT gpt2_beam_search('x', beams => NULL);
SELECT gpt2_beam_search('x', max_tokens => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_beam_search('x', length_penalty => 'NaN');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_beam('x', length_penalty => 11);
SELECT gpt2_beam_search('x', model => 'absent');
SELECT gpt2_beam('one two three four five');
\echo :LAST_ERROR_SQLSTATE

-- blocks, activations, tokens
SELECT gpt2_block('{"[1,1]"}', 2);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_block('{"[1,1]"}', -1);
SELECT gpt2_block('{"[1,1]"}', NULL);
SELECT gpt2_block('{"[1,1]","[1,1,1]"}', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_block('{"[1,1]",NULL}', 0);
SELECT gpt2_block('{}', 0);
SELECT gpt2_forward('{1,50257}');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_forward('{-1}');
SELECT gpt2_forward('{1,NULL}');
SELECT gpt2_forward('{}');
SELECT gpt2_embeddings('{1,50257}');

-- variants
SELECT gpt2_create_variant('');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_create_variant(NULL);
SELECT gpt2_create_variant('tiny');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_create_variant('new', 'absent');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_create_variant('first'), gpt2_create_variant('second', 'first');
SELECT gpt2_drop_model('tiny');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2._add_model('tiny', '{}', replace => true);
UPDATE gpt2.wpe SET "position" = 9 WHERE model = :model;
\echo :LAST_ERROR_SQLSTATE
UPDATE gpt2.wpe SET weight = '[1]' WHERE model = :model;
\echo :LAST_ERROR_SQLSTATE
UPDATE gpt2.wte SET weight = NULL WHERE model = :model AND token = 0;

-- two models
SELECT gpt2_average('new', 'tiny', 'first', -0.1);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_average('new', 'tiny', 'first', 'NaN');
SELECT gpt2_average('new', 'tiny', 'first', NULL);
SELECT gpt2_average('', 'tiny', 'first');
SELECT gpt2_average('first', 'tiny', 'first');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_average('new', 'tiny', 'absent');
SELECT gpt2_fingerprint('absent');
SELECT * FROM gpt2_model_diff('absent', 'tiny');
BEGIN;
UPDATE gpt2.model SET n_layer = 1, scale_attn_weights = false WHERE name = 'second';
SELECT * FROM gpt2_model_diff('tiny', 'second');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
UPDATE gpt2.model SET dtype = 'float16' WHERE name = 'second';
SELECT gpt2_average('new', 'tiny', 'second');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT gpt2_drop_model(name) FROM gpt2_models() WHERE base = 'tiny';

-- hook points, patches, steering, heads
SELECT gpt2_trace('x', '{resid}');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_trace('x', blocks => '{2}');
SELECT gpt2_next_token('x', patch => ARRAY[
    ROW(0, NULL, 0, 'nowhere', '[1,1]')::gpt2.activation]);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_next_token('x', patch => ARRAY[
    ROW(0, NULL, 1, 'hook_resid_pre', '[1,1]')::gpt2.activation]);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', steer => ARRAY[ROW(3, NULL, '[1,1]', 1)::gpt2.steering]);
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_attention('x', 0, 1);
\echo :LAST_ERROR_SQLSTATE

-- a model whose weights are gone
DELETE FROM gpt2.matrix_page;
SELECT gpt2_generate('x');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_generate('x', model => 'tiny');
\echo :LAST_ERROR_SQLSTATE
SELECT gpt2_drop_model('tiny');
