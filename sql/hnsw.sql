-- Operator classes of distilface_hnsw over embedding. Strategy 1 is the operator to order by; strategy
-- 2 the same with rows that have no distance in front; 3 to 7 are <, <=, =, >= and > of filter columns. Support function 1 tells the access method what
-- it indexes: the low byte of its result is the metric (1 L2, 2 inner product, 3 cosine, 4 L1), the
-- next byte what the column's values are (0 vectors of single precision, as embedding and pgvector's
-- vector; 1 of half precision, as pgvector's halfvec; 2 text; 3 arrays of real).

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
-- ORDER BY distilface_similarity(e, q) DESC puts rows without a similarity first. The planner's hook
-- serves it by this operator, whose name users need not know.
CREATE FUNCTION embedding_cosine_undefined_first(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_cosine_undefined_first_wrapper'
	LANGUAGE C IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE COST 4;
CREATE OPERATOR <?=> (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_cosine_undefined_first
);
COMMENT ON OPERATOR <?=> (embedding, embedding) IS 'cosine distance, -Infinity where there is none';

CREATE OPERATOR CLASS embedding_cosine_ops
	DEFAULT FOR TYPE embedding USING distilface_hnsw AS
	OPERATOR 1 <=> (embedding, embedding) FOR ORDER BY float_ops,
	OPERATOR 2 <?=> (embedding, embedding) FOR ORDER BY float_ops,
	FUNCTION 1 embedding_hnsw_cosine(internal);
CREATE OPERATOR CLASS embedding_l1_ops
	FOR TYPE embedding USING distilface_hnsw AS
	OPERATOR 1 <+> (embedding, embedding) FOR ORDER BY float_ops,
	FUNCTION 1 embedding_hnsw_l1(internal);

-- Text indexed directly: the index embeds by itself.
CREATE FUNCTION text_semantic_column(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'text_semantic_column_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;

CREATE FUNCTION distilface_distance(text, text) RETURNS double precision
	AS 'MODULE_PATHNAME', 'distilface_distance_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 80000 SUPPORT distilface_support;
COMMENT ON FUNCTION distilface_distance(text, text) IS 'cosine distance of a passage and a query by the default model';

CREATE OPERATOR <=> (
	LEFTARG = text, RIGHTARG = text, PROCEDURE = distilface_distance
);
COMMENT ON OPERATOR <=> (text, text) IS 'cosine distance of a passage and a query by the default model';

-- What plans hold in the place of body <=> 'q' and distilface_similarity(body, 'q') where a scan of the
-- index has the row's distance already.
CREATE FUNCTION distilface.scan_distance(index oid, tuple tid, passage text, query text) RETURNS double precision
	AS 'MODULE_PATHNAME', 'scan_distance_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION distilface.scan_distance(oid, tid, text, text) IS 'cosine distance that a scan of the index gave to the row; plans call it';
CREATE FUNCTION distilface.scan_similarity(index oid, tuple tid, passage text, query text) RETURNS real
	AS 'MODULE_PATHNAME', 'scan_similarity_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION distilface.scan_similarity(oid, tid, text, text) IS 'cosine similarity that a scan of the index gave to the row; plans call it';

CREATE FUNCTION distilface_distance_undefined_first(text, text) RETURNS double precision
	AS 'MODULE_PATHNAME', 'distilface_distance_undefined_first_wrapper'
	LANGUAGE C STABLE CALLED ON NULL INPUT PARALLEL SAFE COST 80000 SUPPORT distilface_support;
CREATE OPERATOR <?=> (
	LEFTARG = text, RIGHTARG = text, PROCEDURE = distilface_distance_undefined_first
);
COMMENT ON OPERATOR <?=> (text, text) IS 'cosine distance, -Infinity where there is none';

CREATE OPERATOR CLASS text_semantic_ops
	DEFAULT FOR TYPE text USING distilface_hnsw AS
	OPERATOR 1 <=> (text, text) FOR ORDER BY float_ops,
	OPERATOR 2 <?=> (text, text) FOR ORDER BY float_ops,
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >,
	FUNCTION 1 text_semantic_column(internal);

-- Columns to filter by, after the first one: USING distilface_hnsw (e, tenant_id, created). Text is
-- among them by the class above, since a type has one default class. They need no support function.
CREATE OPERATOR FAMILY integer_filter_ops USING distilface_hnsw;
CREATE OPERATOR CLASS int2_filter_ops
	DEFAULT FOR TYPE smallint USING distilface_hnsw FAMILY integer_filter_ops AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;
CREATE OPERATOR CLASS int4_filter_ops
	DEFAULT FOR TYPE integer USING distilface_hnsw FAMILY integer_filter_ops AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;
CREATE OPERATOR CLASS int8_filter_ops
	DEFAULT FOR TYPE bigint USING distilface_hnsw FAMILY integer_filter_ops AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;
-- A plain number in a query is an integer, whatever the column is.
ALTER OPERATOR FAMILY integer_filter_ops USING distilface_hnsw ADD
	OPERATOR 3 < (smallint, integer), OPERATOR 4 <= (smallint, integer), OPERATOR 5 = (smallint, integer), OPERATOR 6 >= (smallint, integer), OPERATOR 7 > (smallint, integer),
	OPERATOR 3 < (smallint, bigint), OPERATOR 4 <= (smallint, bigint), OPERATOR 5 = (smallint, bigint), OPERATOR 6 >= (smallint, bigint), OPERATOR 7 > (smallint, bigint),
	OPERATOR 3 < (integer, smallint), OPERATOR 4 <= (integer, smallint), OPERATOR 5 = (integer, smallint), OPERATOR 6 >= (integer, smallint), OPERATOR 7 > (integer, smallint),
	OPERATOR 3 < (integer, bigint), OPERATOR 4 <= (integer, bigint), OPERATOR 5 = (integer, bigint), OPERATOR 6 >= (integer, bigint), OPERATOR 7 > (integer, bigint),
	OPERATOR 3 < (bigint, smallint), OPERATOR 4 <= (bigint, smallint), OPERATOR 5 = (bigint, smallint), OPERATOR 6 >= (bigint, smallint), OPERATOR 7 > (bigint, smallint),
	OPERATOR 3 < (bigint, integer), OPERATOR 4 <= (bigint, integer), OPERATOR 5 = (bigint, integer), OPERATOR 6 >= (bigint, integer), OPERATOR 7 > (bigint, integer);
CREATE OPERATOR CLASS bool_filter_ops
	DEFAULT FOR TYPE boolean USING distilface_hnsw AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;
CREATE OPERATOR CLASS uuid_filter_ops
	DEFAULT FOR TYPE uuid USING distilface_hnsw AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;
CREATE OPERATOR CLASS date_filter_ops
	DEFAULT FOR TYPE date USING distilface_hnsw AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;
CREATE OPERATOR CLASS timestamp_filter_ops
	DEFAULT FOR TYPE timestamp USING distilface_hnsw AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;
CREATE OPERATOR CLASS timestamptz_filter_ops
	DEFAULT FOR TYPE timestamptz USING distilface_hnsw AS
	OPERATOR 3 <, OPERATOR 4 <=, OPERATOR 5 =, OPERATOR 6 >=, OPERATOR 7 >;

-- real[]: the same operators and classes. A driver's array compares with a column of embeddings too, by an
-- operator that the column's index knows.
CREATE FUNCTION real_array_l2_distance(real[], real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'real_array_l2_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <-> (
	LEFTARG = real[], RIGHTARG = real[], PROCEDURE = real_array_l2_distance, COMMUTATOR = '<->'
);
COMMENT ON OPERATOR <-> (real[], real[]) IS 'Euclidean distance';
CREATE FUNCTION embedding_real_array_l2_distance(embedding, real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_real_array_l2_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <-> (
	LEFTARG = embedding, RIGHTARG = real[], PROCEDURE = embedding_real_array_l2_distance
);
COMMENT ON OPERATOR <-> (embedding, real[]) IS 'Euclidean distance';
ALTER OPERATOR FAMILY embedding_l2_ops USING distilface_hnsw ADD
	OPERATOR 1 <-> (embedding, real[]) FOR ORDER BY float_ops;
CREATE FUNCTION real_array_hnsw_l2(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'real_array_hnsw_l2_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE OPERATOR CLASS real_array_l2_ops
	FOR TYPE real[] USING distilface_hnsw AS
	OPERATOR 1 <-> (real[], real[]) FOR ORDER BY float_ops,
	FUNCTION 1 real_array_hnsw_l2(internal);
CREATE FUNCTION real_array_negative_inner_product(real[], real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'real_array_negative_inner_product_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <#> (
	LEFTARG = real[], RIGHTARG = real[], PROCEDURE = real_array_negative_inner_product, COMMUTATOR = '<#>'
);
COMMENT ON OPERATOR <#> (real[], real[]) IS 'negative inner product';
CREATE FUNCTION embedding_real_array_negative_inner_product(embedding, real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_real_array_negative_inner_product_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <#> (
	LEFTARG = embedding, RIGHTARG = real[], PROCEDURE = embedding_real_array_negative_inner_product
);
COMMENT ON OPERATOR <#> (embedding, real[]) IS 'negative inner product';
ALTER OPERATOR FAMILY embedding_ip_ops USING distilface_hnsw ADD
	OPERATOR 1 <#> (embedding, real[]) FOR ORDER BY float_ops;
CREATE FUNCTION real_array_hnsw_ip(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'real_array_hnsw_ip_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE OPERATOR CLASS real_array_ip_ops
	FOR TYPE real[] USING distilface_hnsw AS
	OPERATOR 1 <#> (real[], real[]) FOR ORDER BY float_ops,
	FUNCTION 1 real_array_hnsw_ip(internal);
CREATE FUNCTION real_array_cosine_distance(real[], real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'real_array_cosine_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <=> (
	LEFTARG = real[], RIGHTARG = real[], PROCEDURE = real_array_cosine_distance, COMMUTATOR = '<=>'
);
COMMENT ON OPERATOR <=> (real[], real[]) IS 'cosine distance';
CREATE FUNCTION embedding_real_array_cosine_distance(embedding, real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_real_array_cosine_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <=> (
	LEFTARG = embedding, RIGHTARG = real[], PROCEDURE = embedding_real_array_cosine_distance
);
COMMENT ON OPERATOR <=> (embedding, real[]) IS 'cosine distance';
ALTER OPERATOR FAMILY embedding_cosine_ops USING distilface_hnsw ADD
	OPERATOR 1 <=> (embedding, real[]) FOR ORDER BY float_ops;
CREATE FUNCTION real_array_hnsw_cosine(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'real_array_hnsw_cosine_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE OPERATOR CLASS real_array_cosine_ops
	DEFAULT FOR TYPE real[] USING distilface_hnsw AS
	OPERATOR 1 <=> (real[], real[]) FOR ORDER BY float_ops,
	FUNCTION 1 real_array_hnsw_cosine(internal);
CREATE FUNCTION real_array_l1_distance(real[], real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'real_array_l1_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <+> (
	LEFTARG = real[], RIGHTARG = real[], PROCEDURE = real_array_l1_distance, COMMUTATOR = '<+>'
);
COMMENT ON OPERATOR <+> (real[], real[]) IS 'taxicab distance';
CREATE FUNCTION embedding_real_array_l1_distance(embedding, real[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_real_array_l1_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE OPERATOR <+> (
	LEFTARG = embedding, RIGHTARG = real[], PROCEDURE = embedding_real_array_l1_distance
);
COMMENT ON OPERATOR <+> (embedding, real[]) IS 'taxicab distance';
ALTER OPERATOR FAMILY embedding_l1_ops USING distilface_hnsw ADD
	OPERATOR 1 <+> (embedding, real[]) FOR ORDER BY float_ops;
CREATE FUNCTION real_array_hnsw_l1(internal) RETURNS integer
	AS 'MODULE_PATHNAME', 'real_array_hnsw_l1_wrapper' LANGUAGE C IMMUTABLE PARALLEL SAFE;
CREATE OPERATOR CLASS real_array_l1_ops
	FOR TYPE real[] USING distilface_hnsw AS
	OPERATOR 1 <+> (real[], real[]) FOR ORDER BY float_ops,
	FUNCTION 1 real_array_hnsw_l1(internal);
