-- Long texts into chunks that a model takes whole, cut at the ends of paragraphs and sentences
-- where it can be. Characters are counted from 1, both ends included: a chunk is
-- substr(text, start_char, end_char - start_char + 1).

CREATE FUNCTION distilface_chunk(text, max_tokens integer, overlap integer DEFAULT 0)
	RETURNS TABLE (seq integer, chunk text, tokens integer, start_char integer, end_char integer)
	AS 'MODULE_PATHNAME', 'distilface_chunk_default_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 1000 ROWS 10;
COMMENT ON FUNCTION distilface_chunk(text, integer, integer) IS
	'cuts a text into chunks of at most max_tokens tokens of the default model';

CREATE FUNCTION distilface_chunk(text, max_tokens integer, overlap integer, model text)
	RETURNS TABLE (seq integer, chunk text, tokens integer, start_char integer, end_char integer)
	AS 'MODULE_PATHNAME', 'distilface_chunk_model_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1000 ROWS 10;
COMMENT ON FUNCTION distilface_chunk(text, integer, integer, text) IS
	'cuts a text into chunks of at most max_tokens tokens of a named model';
