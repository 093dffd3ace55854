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

-- The counts of PostgreSQL's own report, with those that it has no columns for. An index that is not
-- committed yet shows as its number.
CREATE VIEW distilface.index_progress AS
	SELECT p.pid, p.relid::pg_catalog.regclass AS "table", p.index_relid::pg_catalog.regclass AS index, p.phase,
		r.param18 AS rows_done,
		greatest(r.param18, CASE WHEN r.param11 <= 2 THEN p.tuples_total ELSE 0 END) AS rows_total,
		r.param19 AS tokens_done, r.param18 / t.seconds AS rows_per_second, r.param19 / t.seconds AS tokens_per_second,
		CASE WHEN r.param18 > 0 THEN make_interval(secs =>
			t.seconds * greatest(p.tuples_total - r.param18, 0) / r.param18) END AS time_left
	FROM pg_catalog.pg_stat_progress_create_index p
	JOIN pg_catalog.pg_stat_get_progress_info('CREATE INDEX') r ON r.pid = p.pid
	LEFT JOIN LATERAL (
		SELECT extract(epoch FROM clock_timestamp() - timestamptz '2000-01-01 00:00:00+00')::double precision - r.param20 / 1e6
		WHERE r.param11 = 2 AND r.param20 > 0) t(seconds) ON true
	WHERE p.datid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
		AND r.param9 = (SELECT a.oid FROM pg_catalog.pg_am a WHERE a.amname = 'distilface_hnsw');
GRANT SELECT ON distilface.index_progress TO PUBLIC;
COMMENT ON VIEW distilface.index_progress IS 'rows and tokens of the distilface_hnsw indexes that are being built';
