-- The access method; its operator classes are in hnsw.sql.

CREATE FUNCTION distilface_hnsw_handler(internal) RETURNS index_am_handler
	AS 'MODULE_PATHNAME', 'distilface_hnsw_handler_wrapper' LANGUAGE C;

CREATE ACCESS METHOD distilface_hnsw TYPE INDEX HANDLER distilface_hnsw_handler;
COMMENT ON ACCESS METHOD distilface_hnsw IS 'HNSW index for nearest neighbors';

CREATE FUNCTION distilface_index_info(index regclass,
	OUT format_version integer, OUT dimensions integer, OUT metric text, OUT m integer,
	OUT ef_construction integer, OUT pages bigint, OUT nodes bigint, OUT dead_nodes bigint,
	OUT free_slots bigint, OUT heap_tids bigint, OUT unplaced bigint, OUT levels bigint[], OUT links bigint,
	OUT bytes_per_node bigint, OUT page_locality double precision)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'distilface_index_info_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION distilface_index_info(regclass) IS 'figures of a distilface_hnsw index';

CREATE FUNCTION distilface_index_check(index regclass, heap boolean DEFAULT true) RETURNS SETOF text
	AS 'MODULE_PATHNAME', 'distilface_index_check_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION distilface_index_check(regclass, boolean) IS 'broken invariants of an index, with heap also rows of the table that it lacks or knows wrongly; no row when it is sound';

CREATE FUNCTION distilface_last_scan(
	OUT index regclass, OUT scans bigint, OUT visited_nodes bigint, OUT pages bigint, OUT rows bigint,
	OUT late_rows bigint, OUT resumes bigint, OUT swept_nodes bigint, OUT filtering text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'distilface_last_scan_wrapper'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION distilface_last_scan() IS 'what this session''s last scan of a distilface_hnsw index did';
