-- The modules of the Python package gpt2_loader that the server needs, in the order in which they
-- import each other: one reader for the command line and the server.

CREATE FUNCTION gpt2._python_modules()
RETURNS TABLE (name text, source text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 9
SET search_path = pg_catalog, pg_temp
AS $modules$
VALUES
('errors', $python$
--@include ../loader/gpt2_loader/errors.py
$python$),
('files', $python$
--@include ../loader/gpt2_loader/files.py
$python$),
('safetensors_header', $python$
--@include ../loader/gpt2_loader/safetensors_header.py
$python$),
('copy_binary', $python$
--@include ../loader/gpt2_loader/copy_binary.py
$python$),
('vocabulary', $python$
--@include ../loader/gpt2_loader/vocabulary.py
$python$),
('checkpoint', $python$
--@include ../loader/gpt2_loader/checkpoint.py
$python$),
('overflow', $python$
--@include ../loader/gpt2_loader/overflow.py
$python$),
('importer', $python$
--@include ../loader/gpt2_loader/importer.py
$python$),
('server', $python$
--@include server.py
$python$)
$modules$;
COMMENT ON FUNCTION gpt2._python_modules IS
    'Python modules of the importer: names and source, each after those it imports';
