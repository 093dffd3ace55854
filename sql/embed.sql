-- Text into vectors. The costs are in units of cpu_operator_cost (0.0025 at PostgreSQL's default,
-- about 25 ns of work), measured with the default model on a text of about 25 tokens.

-- Says nothing to the planner; asking it loads the library before the plan is made final, so that a
-- session's first statement is embedded in batches too.
CREATE FUNCTION distilface_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME', 'distilface_support_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION distilface_support(internal) IS 'support function for the planner';

CREATE FUNCTION distilface_embed(text) RETURNS embedding
	AS 'MODULE_PATHNAME', 'distilface_embed_default_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 40000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_embed(text) IS 'embeds a text by the default model';

CREATE FUNCTION distilface_embed(text, model text) RETURNS embedding
	AS 'MODULE_PATHNAME', 'distilface_embed_model_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 40000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_embed(text, text) IS 'embeds a text by a named model';

CREATE FUNCTION distilface_embed(text, model text, dims integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'distilface_embed_dims_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 40000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_embed(text, text, integer) IS 'embeds a text by a named Matryoshka model, cut to fewer dimensions';

CREATE FUNCTION distilface_embed(text[]) RETURNS embedding[]
	AS 'MODULE_PATHNAME', 'distilface_embed_array_default_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 400000;
COMMENT ON FUNCTION distilface_embed(text[]) IS 'embeds texts in one batch by the default model';

CREATE FUNCTION distilface_embed(text[], model text) RETURNS embedding[]
	AS 'MODULE_PATHNAME', 'distilface_embed_array_model_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 400000;
COMMENT ON FUNCTION distilface_embed(text[], text) IS 'embeds texts in one batch by a named model';

CREATE FUNCTION distilface_embed_query(text) RETURNS embedding
	AS 'MODULE_PATHNAME', 'distilface_embed_query_default_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 40000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_embed_query(text) IS 'embeds a search query by the default model';

CREATE FUNCTION distilface_embed_query(text, model text) RETURNS embedding
	AS 'MODULE_PATHNAME', 'distilface_embed_query_model_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 40000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_embed_query(text, text) IS 'embeds a search query by a named model';

CREATE FUNCTION distilface_embed_query(text, model text, dims integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'distilface_embed_query_dims_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 40000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_embed_query(text, text, integer) IS 'embeds a search query by a named Matryoshka model, cut to fewer dimensions';

CREATE FUNCTION distilface_similarity(text, text) RETURNS real
	AS 'MODULE_PATHNAME', 'distilface_similarity_default_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 80000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_similarity(text, text) IS 'cosine of two texts by the default model';

CREATE FUNCTION distilface_similarity(text, text, model text) RETURNS real
	AS 'MODULE_PATHNAME', 'distilface_similarity_model_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 80000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_similarity(text, text, text) IS 'cosine of two texts by a named model';

CREATE FUNCTION distilface_rerank(query text, docs text[], model text, OUT ord integer, OUT score real)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'distilface_rerank_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 400000 ROWS 100;
COMMENT ON FUNCTION distilface_rerank IS 'scores texts against a query by a cross-encoder, best first; ord is a text''s place in the array';

CREATE FUNCTION distilface_token_count(text) RETURNS integer
	AS 'MODULE_PATHNAME', 'distilface_token_count_default_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION distilface_token_count(text) IS 'tokens of a text, before any cut, for the default model';

CREATE FUNCTION distilface_token_count(text, model text) RETURNS integer
	AS 'MODULE_PATHNAME', 'distilface_token_count_model_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION distilface_token_count(text, text) IS 'tokens of a text, before any cut, for a named model';

CREATE FUNCTION distilface_embedded(OUT texts bigint, OUT tokens bigint, OUT remembered bigint, OUT runs bigint)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'distilface_embedded_wrapper'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION distilface_embedded() IS 'what this session has embedded: texts and tokens that the encoder read, texts whose vector it remembered, and in how many runs it read';

CREATE SCHEMA distilface;
GRANT USAGE ON SCHEMA distilface TO PUBLIC;
