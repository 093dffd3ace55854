-- The type embedding: pgvector's layout, text form and binary form. Costs are in units of
-- cpu_operator_cost (about 25 ns of work), measured at 384 dimensions.

CREATE TYPE embedding;

CREATE FUNCTION embedding_in(cstring, oid, integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_in_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 400;
CREATE FUNCTION embedding_out(embedding) RETURNS cstring
	AS 'MODULE_PATHNAME', 'embedding_out_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 800;
CREATE FUNCTION embedding_recv(internal, oid, integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_recv_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE FUNCTION embedding_send(embedding) RETURNS bytea
	AS 'MODULE_PATHNAME', 'embedding_send_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE FUNCTION embedding_typmod_in(cstring[]) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_typmod_in_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE embedding (
	INPUT = embedding_in,
	OUTPUT = embedding_out,
	RECEIVE = embedding_recv,
	SEND = embedding_send,
	TYPMOD_IN = embedding_typmod_in,
	INTERNALLENGTH = VARIABLE,
	ALIGNMENT = int4,
	STORAGE = external
);
COMMENT ON TYPE embedding IS 'vector of 1 to 16,000 finite real numbers';

-- Casts

CREATE FUNCTION embedding(embedding, integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_to_embedding_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION array_to_embedding(real[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'array_to_embedding_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
CREATE FUNCTION array_to_embedding(double precision[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'array_to_embedding_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
CREATE FUNCTION array_to_embedding(integer[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'array_to_embedding_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
CREATE FUNCTION array_to_embedding(numeric[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'array_to_embedding_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 4000;
CREATE FUNCTION embedding_to_real_array(embedding) RETURNS real[]
	AS 'MODULE_PATHNAME', 'embedding_to_real_array_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;

CREATE CAST (embedding AS embedding) WITH FUNCTION embedding(embedding, integer, boolean) AS IMPLICIT;
CREATE CAST (real[] AS embedding)
	WITH FUNCTION array_to_embedding(real[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (double precision[] AS embedding)
	WITH FUNCTION array_to_embedding(double precision[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (integer[] AS embedding)
	WITH FUNCTION array_to_embedding(integer[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (numeric[] AS embedding)
	WITH FUNCTION array_to_embedding(numeric[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (embedding AS real[]) WITH FUNCTION embedding_to_real_array(embedding) AS IMPLICIT;

-- Distances

CREATE FUNCTION embedding_l2_distance(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_l2_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 6;
CREATE FUNCTION embedding_negative_inner_product(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_negative_inner_product_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 6;
CREATE FUNCTION embedding_cosine_distance(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_cosine_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 6;
CREATE FUNCTION embedding_l1_distance(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_l1_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 6;
CREATE FUNCTION distilface_similarity(embedding, embedding) RETURNS real
	AS 'MODULE_PATHNAME', 'distilface_similarity_embedding_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 6;
COMMENT ON FUNCTION distilface_similarity(embedding, embedding) IS 'cosine of two embeddings, -1 to 1';

CREATE OPERATOR <-> (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_l2_distance, COMMUTATOR = '<->'
);
COMMENT ON OPERATOR <-> (embedding, embedding) IS 'Euclidean distance';
CREATE OPERATOR <#> (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_negative_inner_product,
	COMMUTATOR = '<#>'
);
COMMENT ON OPERATOR <#> (embedding, embedding) IS 'negative inner product';
CREATE OPERATOR <=> (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_cosine_distance, COMMUTATOR = '<=>'
);
COMMENT ON OPERATOR <=> (embedding, embedding) IS 'cosine distance';
CREATE OPERATOR <+> (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_l1_distance, COMMUTATOR = '<+>'
);
COMMENT ON OPERATOR <+> (embedding, embedding) IS 'taxicab distance';

-- Functions of one embedding

CREATE FUNCTION embedding_dims(embedding) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_dims_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_dims(embedding) IS 'number of dimensions';
CREATE FUNCTION embedding_norm(embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_norm_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 6;
COMMENT ON FUNCTION embedding_norm(embedding) IS 'Euclidean norm';
CREATE FUNCTION l2_normalize(embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_l2_normalize_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 40;
COMMENT ON FUNCTION l2_normalize(embedding) IS 'scales to norm 1; a zero embedding stays as it is';
CREATE FUNCTION subvector(embedding, integer, integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_subvector_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION subvector(embedding, integer, integer) IS 'dimensions from a start, counted from 1, and their count';

-- Arithmetic

CREATE FUNCTION embedding_add(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_add_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
CREATE FUNCTION embedding_sub(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_sub_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
CREATE FUNCTION embedding_mul(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_mul_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
CREATE FUNCTION embedding_concat(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_concat_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;

CREATE OPERATOR + (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_add, COMMUTATOR = +
);
COMMENT ON OPERATOR + (embedding, embedding) IS 'sum by element';
CREATE OPERATOR - (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_sub
);
COMMENT ON OPERATOR - (embedding, embedding) IS 'difference by element';
CREATE OPERATOR * (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_mul, COMMUTATOR = *
);
COMMENT ON OPERATOR * (embedding, embedding) IS 'product by element';
CREATE OPERATOR || (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_concat
);
COMMENT ON OPERATOR || (embedding, embedding) IS 'concatenation';

-- Order and equality

CREATE FUNCTION embedding_lt(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_lt_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION embedding_le(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_le_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION embedding_eq(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_eq_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION embedding_ne(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_ne_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION embedding_ge(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_ge_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION embedding_gt(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_gt_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION embedding_cmp(embedding, embedding) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_cmp_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION embedding_hash(embedding) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_hash_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE FUNCTION embedding_hash_extended(embedding, bigint) RETURNS bigint
	AS 'MODULE_PATHNAME', 'embedding_hash_extended_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;

CREATE OPERATOR < (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_lt,
	COMMUTATOR = >, NEGATOR = >=, RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
CREATE OPERATOR <= (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_le,
	COMMUTATOR = >=, NEGATOR = >, RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
CREATE OPERATOR = (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_eq,
	COMMUTATOR = =, NEGATOR = <>, RESTRICT = eqsel, JOIN = eqjoinsel, HASHES, MERGES
);
CREATE OPERATOR <> (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_ne,
	COMMUTATOR = <>, NEGATOR = =, RESTRICT = neqsel, JOIN = neqjoinsel
);
CREATE OPERATOR >= (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_ge,
	COMMUTATOR = <=, NEGATOR = <, RESTRICT = scalargesel, JOIN = scalargejoinsel
);
CREATE OPERATOR > (
	LEFTARG = embedding, RIGHTARG = embedding, PROCEDURE = embedding_gt,
	COMMUTATOR = <, NEGATOR = <=, RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);

CREATE OPERATOR CLASS embedding_ops
	DEFAULT FOR TYPE embedding USING btree AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 1 embedding_cmp(embedding, embedding);
CREATE OPERATOR CLASS embedding_ops
	DEFAULT FOR TYPE embedding USING hash AS
	OPERATOR 1 =,
	FUNCTION 1 embedding_hash(embedding),
	FUNCTION 2 embedding_hash_extended(embedding, bigint);

-- Aggregates: the state is the count, then one sum per dimension.

CREATE FUNCTION embedding_accum(double precision[], embedding) RETURNS double precision[]
	AS 'MODULE_PATHNAME', 'embedding_accum_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
CREATE FUNCTION embedding_combine(double precision[], double precision[]) RETURNS double precision[]
	AS 'MODULE_PATHNAME', 'embedding_combine_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
CREATE FUNCTION embedding_avg(double precision[]) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_avg_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;
CREATE FUNCTION embedding_sum(double precision[]) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_sum_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 20;

CREATE AGGREGATE avg(embedding) (
	SFUNC = embedding_accum, STYPE = double precision[], INITCOND = '{0}',
	FINALFUNC = embedding_avg, COMBINEFUNC = embedding_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE avg(embedding) IS 'mean by element';
CREATE AGGREGATE sum(embedding) (
	SFUNC = embedding_accum, STYPE = double precision[], INITCOND = '{0}',
	FINALFUNC = embedding_sum, COMBINEFUNC = embedding_combine, PARALLEL = SAFE
);
COMMENT ON AGGREGATE sum(embedding) IS 'sum by element';

-- Beside pgvector

CREATE FUNCTION distilface_enable_pgvector() RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_enable_pgvector_wrapper'
	LANGUAGE C VOLATILE;
REVOKE ALL ON FUNCTION distilface_enable_pgvector() FROM PUBLIC;
COMMENT ON FUNCTION distilface_enable_pgvector() IS
	'adds casts to and from pgvector''s vector, and operator classes over its types';
