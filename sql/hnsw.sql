-- Operator classes of distilface_hnsw over embedding. Strategy 1 is the operator to order by. Support
-- function 1 tells the access method what it indexes: the low byte of its result is the metric (1 L2,
-- 2 inner product, 3 cosine, 4 L1), the next byte how the column's type holds its numbers (0 single
-- precision, as embedding and pgvector's vector; 1 half precision, as pgvector's halfvec).

CREATE FUNCTION embedding_hnsw_l2(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_hnsw_l2_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION embedding_hnsw_ip(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_hnsw_ip_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION embedding_hnsw_cosine(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_hnsw_cosine_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION embedding_hnsw_l1(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_hnsw_l1_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;

-- For pgvector's halfvec; distilface_enable_pgvector() makes the classes.
CREATE FUNCTION halfvec_hnsw_l2(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'halfvec_hnsw_l2_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION halfvec_hnsw_ip(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'halfvec_hnsw_ip_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION halfvec_hnsw_cosine(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'halfvec_hnsw_cosine_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE FUNCTION halfvec_hnsw_l1(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'halfvec_hnsw_l1_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE OPERATOR CLASS embedding_l2_ops
	FOR TYPE embedding USING distilface_hnsw AS
	OPERATOR 1 <-> (embedding, embedding) FOR ORDER BY float_ops,
	FUNCTION 1 embedding_hnsw_l2(internal);
CREATE OPERATOR CLASS embedding_ip_ops
	FOR TYPE embedding USING distilface_hnsw AS
	OPERATOR 1 <#> (embedding, embedding) FOR ORDER BY float_ops,
	FUNCTION 1 embedding_hnsw_ip(internal);
CREATE OPERATOR CLASS embedding_cosine_ops
	DEFAULT FOR TYPE embedding USING distilface_hnsw AS
	OPERATOR 1 <=> (embedding, embedding) FOR ORDER BY float_ops,
	FUNCTION 1 embedding_hnsw_cosine(internal);
CREATE OPERATOR CLASS embedding_l1_ops
	FOR TYPE embedding USING distilface_hnsw AS
	OPERATOR 1 <+> (embedding, embedding) FOR ORDER BY float_ops,
	FUNCTION 1 embedding_hnsw_l1(internal);

-- Text indexed directly: the index embeds by itself. A second byte of 2 says that the column is text.
CREATE FUNCTION text_semantic_column(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'text_semantic_column_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION distilface_distance(text, text) RETURNS double precision
	AS 'MODULE_PATHNAME', 'distilface_distance_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 80000;
COMMENT ON FUNCTION distilface_distance(text, text) IS 'cosine distance of a passage and a query by the default model';

CREATE OPERATOR <=> (
	LEFTARG = text, RIGHTARG = text, PROCEDURE = distilface_distance
);
COMMENT ON OPERATOR <=> (text, text) IS 'cosine distance of a passage and a query by the default model';

CREATE OPERATOR CLASS text_semantic_ops
	DEFAULT FOR TYPE text USING distilface_hnsw AS
	OPERATOR 1 <=> (text, text) FOR ORDER BY float_ops,
	FUNCTION 1 text_semantic_column(internal);
