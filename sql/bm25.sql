-- Full text search: the access method distilface_bm25, its operators and functions. Strategies 1 and
-- 3 are @@@, 2 and 4 are <@>, with a text and with a query that is bound to an index.

CREATE FUNCTION distilface_bm25_handler(internal) RETURNS index_am_handler
	AS 'MODULE_PATHNAME', 'distilface_bm25_handler_wrapper' LANGUAGE C;
CREATE ACCESS METHOD distilface_bm25 TYPE INDEX HANDLER distilface_bm25_handler;
COMMENT ON ACCESS METHOD distilface_bm25 IS 'BM25 index for full text search';

CREATE TYPE bm25query;
CREATE FUNCTION bm25query_in(cstring) RETURNS bm25query
	AS 'MODULE_PATHNAME', 'bm25query_in_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION bm25query_out(bm25query) RETURNS cstring
	AS 'MODULE_PATHNAME', 'bm25query_out_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE TYPE bm25query (
	INPUT = bm25query_in, OUTPUT = bm25query_out,
	INTERNALLENGTH = VARIABLE, ALIGNMENT = int4, STORAGE = extended
);
COMMENT ON TYPE bm25query IS 'full text query bound to a distilface_bm25 index';

CREATE FUNCTION bm25query(query text, index regclass) RETURNS bm25query
	AS 'MODULE_PATHNAME', 'bm25query_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION bm25query(text, regclass) IS 'binds a full text query to an index';
CREATE FUNCTION bm25query_bind(query text, index regclass, attnum smallint) RETURNS bm25query
	AS 'MODULE_PATHNAME', 'bm25query_bind_wrapper' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION distilface_bm25_support(internal) RETURNS internal
	AS 'MODULE_PATHNAME', 'distilface_bm25_support_wrapper' LANGUAGE C IMMUTABLE STRICT;

CREATE FUNCTION distilface_bm25_match(text, text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'distilface_bm25_match_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 SUPPORT distilface_bm25_support;
CREATE FUNCTION distilface_bm25_match(text, bm25query) RETURNS boolean
	AS 'MODULE_PATHNAME', 'distilface_bm25_match_bound_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 SUPPORT distilface_bm25_support;
CREATE FUNCTION distilface_bm25_distance(text, text) RETURNS double precision
	AS 'MODULE_PATHNAME', 'distilface_bm25_distance_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 SUPPORT distilface_bm25_support;
CREATE FUNCTION distilface_bm25_distance(text, bm25query) RETURNS double precision
	AS 'MODULE_PATHNAME', 'distilface_bm25_distance_bound_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10000 SUPPORT distilface_bm25_support;

-- What the planner makes of the operators where a query may look into several columns.
CREATE FUNCTION distilface_bm25_match_row(text, bm25query, text[]) RETURNS boolean
	AS 'MODULE_PATHNAME', 'distilface_bm25_match_row_wrapper'
	LANGUAGE C STABLE PARALLEL SAFE COST 20000 SUPPORT distilface_bm25_support;
CREATE FUNCTION distilface_bm25_distance_row(text, bm25query, text[]) RETURNS double precision
	AS 'MODULE_PATHNAME', 'distilface_bm25_distance_row_wrapper'
	LANGUAGE C STABLE PARALLEL SAFE COST 20000;

-- What plans hold before body <@> 'q' where a scan of the index has the row's distance already.
CREATE FUNCTION distilface.scan_score(index oid, tuple tid, query bm25query) RETURNS double precision
	AS 'MODULE_PATHNAME', 'scan_score_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION distilface.scan_score(oid, tid, bm25query) IS 'negative score that a scan of the index gave to the row; plans call it';

CREATE OPERATOR @@@ (
	LEFTARG = text, RIGHTARG = text, FUNCTION = distilface_bm25_match,
	RESTRICT = contsel, JOIN = contjoinsel
);
CREATE OPERATOR @@@ (
	LEFTARG = text, RIGHTARG = bm25query, FUNCTION = distilface_bm25_match,
	RESTRICT = contsel, JOIN = contjoinsel
);
CREATE OPERATOR <@> (
	LEFTARG = text, RIGHTARG = text, FUNCTION = distilface_bm25_distance
);
CREATE OPERATOR <@> (
	LEFTARG = text, RIGHTARG = bm25query, FUNCTION = distilface_bm25_distance
);
COMMENT ON OPERATOR @@@ (text, text) IS 'text matches full text query';
COMMENT ON OPERATOR <@> (text, text) IS 'negative BM25 score';

CREATE OPERATOR CLASS text_bm25_ops
	DEFAULT FOR TYPE text USING distilface_bm25 AS
	OPERATOR 1 @@@ (text, text),
	OPERATOR 2 <@> (text, text) FOR ORDER BY float_ops,
	OPERATOR 3 @@@ (text, bm25query),
	OPERATOR 4 <@> (text, bm25query) FOR ORDER BY float_ops;

CREATE FUNCTION distilface_tokenize(text, config text DEFAULT 'simple',
	OUT term text, OUT "position" integer, OUT start_byte integer, OUT end_byte integer)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'distilface_tokenize_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 30;
COMMENT ON FUNCTION distilface_tokenize(text, text) IS 'terms of a text by a text configuration';

CREATE FUNCTION distilface_highlight(text, query text, config text DEFAULT 'simple',
	start_mark text DEFAULT '<b>', end_mark text DEFAULT '</b>', max_chars integer DEFAULT 0,
	ellipsis text DEFAULT '…')
	RETURNS text
	AS 'MODULE_PATHNAME', 'distilface_highlight_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION distilface_highlight(text, text, text, text, text, integer, text)
	IS 'marks the words of a text that match a full text query';

CREATE FUNCTION distilface_query(text, columns text[] DEFAULT '{}') RETURNS text
	AS 'MODULE_PATHNAME', 'distilface_query_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION distilface_query(text, text[]) IS 'a full text query of whatever a user typed';

CREATE FUNCTION distilface_bm25_merge(index regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_bm25_merge_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_bm25_merge(regclass) IS 'merges a distilface_bm25 index into one segment';

CREATE FUNCTION distilface_bm25_info(index regclass,
	OUT rows bigint, OUT segments integer, OUT pending_rows bigint, OUT k1 double precision,
	OUT b double precision, OUT columns text[], OUT text_configs text[])
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'distilface_bm25_info_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION distilface_bm25_info(regclass) IS 'figures of a distilface_bm25 index';
