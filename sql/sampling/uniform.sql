-- Random numbers of a seed.


CREATE FUNCTION gpt2._uniform(seed bigint, n int)
RETURNS float8
LANGUAGE sql IMMUTABLE PARALLEL SAFE
-- 52 bits of a hash, not random(): a seed means the same on every server and in every worker
RETURN ('x' || left(encode(sha256(int8send(seed) || int4send(n)), 'hex'), 13))::bit(52)::bigint
       / 4503599627370496::float8;
COMMENT ON FUNCTION gpt2._uniform IS 'number n of a seed, uniform in [0, 1)';


CREATE FUNCTION gpt2._random_seed()
RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE
-- random() is not allowed in a parallel worker; the first 48 bits of a UUID are random too
RETURN ('x' || left(translate(gen_random_uuid()::text, '-', ''), 12))::bit(48)::bigint;
COMMENT ON FUNCTION gpt2._random_seed IS 'a fresh seed';
