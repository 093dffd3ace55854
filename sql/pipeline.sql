-- Tables that keep themselves embedded.
--
-- A pipeline is a row of distilface.pipelines and two triggers on its table. One acts (embeds, or
-- queues the row's key); the other never fires and holds the columns in its UPDATE OF list, where
-- PostgreSQL keeps them true through renames, partitions and dumps: source, target (not for chunks),
-- key columns. Functions named owner_… run as the table's owner, through distilface.as_owner; the
-- catalogs' row security then shows an owner what belongs to its tables and nothing else. Procedures
-- commit, so they can have no SET clause: they hold qualified calls and not one operator.

CREATE FUNCTION distilface.pipeline_trigger() RETURNS trigger
	AS 'MODULE_PATHNAME', 'distilface_pipeline_trigger_wrapper' LANGUAGE C;
CREATE FUNCTION distilface.as_owner(relation regclass, name text, args jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'distilface_as_owner_wrapper' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION distilface.as_keeper(relation regclass, name text, args jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'distilface_as_keeper_wrapper' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION distilface.wake_worker() RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_wake_worker_wrapper' LANGUAGE C VOLATILE;
CREATE FUNCTION distilface.require_no_block(procedure text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_require_no_block_wrapper' LANGUAGE C VOLATILE STRICT;
CREATE FUNCTION distilface.has_worker() RETURNS boolean
	AS 'MODULE_PATHNAME', 'distilface_has_worker_wrapper' LANGUAGE C VOLATILE;

-- Whether a model finds nothing to embed in a text. By its revision, which asks for no right to it.
CREATE FUNCTION distilface.is_blank(body text, revision text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'distilface_is_blank_wrapper' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 20;

-- What a pipeline is, with its columns as they are called now. No row where the table or a column of
-- it is gone. Keys are those that the pipeline was made with; where it needed none, those that the
-- table has now, to name rows by.
CREATE TYPE distilface.pipeline AS (
	id integer, relation regclass, form text, model text, revision text, chunk_table regclass,
	chunk_tokens integer, chunk_overlap integer, replaces integer, adds_target boolean,
	build_index text, index_options text, made_index boolean, filled boolean,
	source text, target text, keys text[], key_types text[],
	-- What distilface_vectorize was given as target.
	name text,
	-- What the table of chunks calls the key's columns.
	chunk_keys text[]
);

-- A table of chunks refers to its table's key by a foreign key, which knows the columns of both, whatever
-- they are called. Where somebody dropped it, they are taken to have the same names.
CREATE FUNCTION distilface.chunk_keys(chunk_table regclass, relation regclass, attnums smallint[], names text[])
	RETURNS text[] LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce((
		SELECT (SELECT array_agg(a.attname::text ORDER BY k.place)
				FROM unnest(attnums) WITH ORDINALITY k(attnum, place)
				JOIN pg_attribute a ON a.attrelid = f.conrelid
					AND a.attnum = f.conkey[array_position(f.confkey, k.attnum)])
			FROM pg_constraint f
			WHERE f.contype = 'f' AND f.conrelid = chunk_table AND f.confrelid = relation
				AND f.confkey @> attnums AND f.confkey <@ attnums
			-- Ours is of the table's own key.
			ORDER BY EXISTS (SELECT FROM pg_constraint u WHERE u.conrelid = chunk_table AND u.contype = 'p'
				AND u.conkey @> f.conkey) DESC, f.oid LIMIT 1), names)
$$;

-- The columns to know a table's rows by: its primary key, or the smallest unique key without NULLs.
CREATE FUNCTION distilface.key_of(relation regclass, OUT names text[], OUT types text[]) LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT array_agg(a.attname::text ORDER BY u.place),
		array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY u.place)
	FROM (SELECT * FROM pg_index i
		WHERE i.indrelid = relation AND i.indisunique AND i.indisvalid AND i.indimmediate
			AND i.indpred IS NULL AND i.indexprs IS NULL
			AND NOT EXISTS (SELECT FROM unnest(i.indkey::smallint[]) WITH ORDINALITY n(attnum, place)
				JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = n.attnum
				WHERE n.place <= i.indnkeyatts AND NOT a.attnotnull)
		ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1) i
	CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY u(attnum, place)
	JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum
	WHERE u.place <= i.indnkeyatts
$$;

CREATE FUNCTION distilface.describe(target regclass DEFAULT NULL) RETURNS SETOF distilface.pipeline
	LANGUAGE sql STABLE ROWS 5
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT p.id, p.relation, p.form, p.model, p.revision, p.chunk_table, p.chunk_tokens,
		p.chunk_overlap, p.replaces, p.adds_target, p.build_index, p.index_options, p.made_index,
		p.filled, c.names[1],
		CASE WHEN p.chunk_table IS NULL THEN c.names[2] ELSE 'e' END,
		CASE WHEN p.chunk_table IS NOT NULL THEN c.names[2:] WHEN cardinality(c.names) > 2 THEN c.names[3:]
			ELSE coalesce((SELECT k.names FROM distilface.key_of(p.relation) k), '{}') END,
		CASE WHEN p.chunk_table IS NOT NULL THEN c.types[2:] WHEN cardinality(c.names) > 2 THEN c.types[3:]
			ELSE coalesce((SELECT k.types FROM distilface.key_of(p.relation) k), '{}') END,
		CASE WHEN p.chunk_table IS NULL THEN c.names[2] ELSE
			(SELECT k.relname::text FROM pg_class k WHERE k.oid = p.chunk_table) END,
		CASE WHEN p.chunk_table IS NOT NULL THEN distilface.chunk_keys(p.chunk_table, p.relation, c.attnums[2:], c.names[2:]) END
	FROM distilface.pipelines p
	JOIN pg_class r ON r.oid = p.relation
	JOIN pg_trigger t ON t.tgrelid = p.relation AND t.tgfoid = 'distilface.pipeline_trigger()'::regprocedure
		AND t.tgattr <> ''::int2vector
		AND t.tgargs = convert_to(p.id::text, 'SQL_ASCII') || '\x00'::bytea || 'columns'::bytea || '\x00'::bytea
	CROSS JOIN LATERAL (
		SELECT array_agg(a.attname::text ORDER BY u.place) AS names,
			array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY u.place) AS types,
			array_agg(u.attnum ORDER BY u.place) AS attnums
		FROM unnest(t.tgattr::smallint[]) WITH ORDINALITY u(attnum, place)
		JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = u.attnum
	) c
	WHERE describe.target IS NULL OR p.relation = describe.target
	ORDER BY p.id
$$;
COMMENT ON FUNCTION distilface.describe(regclass) IS 'the pipelines of a table, with their columns';

-- The condition that finds a row of `alias` by `key`, the text of an array of texts. The operators
-- are those of a unique index over the key columns, whatever the search path and the types.
CREATE FUNCTION distilface.key_condition(relation regclass, keys text[], types text[], alias text, key text)
	RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT string_agg(format('%s.%I %s ((%s)::text[])[%s]::%s', alias, k.name,
		coalesce((SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
			FROM pg_index i
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = k.name
			CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY u(attnum, place)
			JOIN pg_opclass c ON c.oid = i.indclass[u.place - 1]
			JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
				AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
			JOIN pg_operator o ON o.oid = m.amopopr
			JOIN pg_namespace n ON n.oid = o.oprnamespace
			WHERE i.indrelid = relation AND i.indisunique AND u.attnum = a.attnum AND u.place <= i.indnkeyatts
			LIMIT 1), 'OPERATOR(pg_catalog.=)'),
		key, k.place, k.type), ' AND ' ORDER BY k.place)
	FROM unnest(keys, types) WITH ORDINALITY k(name, type, place)
$$;

-- The text of a row's key: its columns as their types write them, which is what the trigger puts into
-- the queue. Whoever evaluates it pins the settings that types heed, see with_plain_output in Rust.
CREATE FUNCTION distilface.key_expression(keys text[], alias text) RETURNS text LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'ARRAY[' || string_agg(format('format(''%%s'', %s.%I)', alias, k.name), ', ' ORDER BY k.place) || ']::text'
	FROM unnest(keys) WITH ORDINALITY k(name, place)
$$;

-- The same for a row t of a pipeline's table: its place where the table has no key.
CREATE FUNCTION distilface.row_key(p distilface.pipeline) RETURNS text LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN cardinality(p.keys) > 0 THEN distilface.key_expression(p.keys, 't') ELSE 't.ctid::text' END $$;

-- Whether a row t of a pipeline's table has a vector, or chunks.
CREATE FUNCTION distilface.has_vector(p distilface.pipeline) RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN p.chunk_table IS NULL THEN format('(t.%I IS NOT NULL)', p.target)
		ELSE format('EXISTS (SELECT FROM %s c WHERE (%s) = (%s))', p.chunk_table,
			(SELECT string_agg(format('c.%I', k), ', ') FROM unnest(p.chunk_keys) k),
			(SELECT string_agg(format('t.%I', k), ', ') FROM unnest(p.keys) k)) END
$$;

-- Whether it has a text and no vector.
CREATE FUNCTION distilface.lacks_vector(p distilface.pipeline) RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('t.%1$I IS NOT NULL AND NOT %2$s AND NOT distilface.is_blank(t.%1$I::text, %3$L)',
		p.source, distilface.has_vector(p), p.revision)
$$;

-- Errors that say nothing about the row at hand: they end the step, and the row is tried again.
CREATE FUNCTION distilface.is_passing(state text) RETURNS boolean LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT left(state, 2) IN ('08', '25', '40', '53', '57', '58', 'XX') OR state = '55P03' $$;

-- What went wrong last, for distilface.progress. A restored pipeline has no row of activity yet.
CREATE FUNCTION distilface.note_error(pipeline integer, message text) RETURNS void LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	INSERT INTO distilface.activity (pipeline, last_error, last_error_at)
		SELECT p.id, note_error.message, now() FROM distilface.pipelines p
			WHERE p.id = note_error.pipeline
		ON CONFLICT ON CONSTRAINT activity_pkey DO UPDATE
			SET last_error = excluded.last_error, last_error_at = excluded.last_error_at
$$;

-- Notes a row that could not be embedded.
CREATE FUNCTION distilface.note_failure(p distilface.pipeline, leaf regclass, key text, tid tid, state text, message text)
	RETURNS void LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	INSERT INTO distilface.failed_rows AS f (pipeline, relation, key, sqlstate, error)
		VALUES (p.id, CASE WHEN note_failure.key IS NULL THEN leaf ELSE p.relation END,
			coalesce(note_failure.key, note_failure.tid::text), state, message)
		ON CONFLICT ON CONSTRAINT failed_rows_pkey DO UPDATE SET sqlstate = excluded.sqlstate,
			error = excluded.error, attempts = f.attempts + 1, failed_at = excluded.failed_at;
	SELECT distilface.note_error(p.id, message)
$$;

-- Embeds rows of one table and writes the vectors, unless a row changed since it was read (another
-- ctid or xmin) or somebody has it locked. Gives back the places of the rows that need nothing more.
-- A row that was written and has no vector all the same is a bad one: looking again would never end.
CREATE FUNCTION distilface.write_rows(p distilface.pipeline, leaf regclass, keys text[], tids tid[],
		xmins xid[], texts text[])
	RETURNS bigint[]
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET enable_seqscan = off SET lc_monetary = 'C'
	SET "distilface.on_overflow" = 'silent'
AS $$
DECLARE
	vectors @extschema@.embedding[];
	chunks text[];
	settled bigint[];
	untouched bigint[];
	own text[];
	seqs integer[];
	tokens integer[];
	starts integer[];
	ends integer[];
BEGIN
	IF p.chunk_table IS NULL THEN
		vectors := @extschema@.distilface_embed(texts, p.model);
		EXECUTE format('WITH locked AS MATERIALIZED (
				SELECT u.place, t.ctid AS tid, u.vector, u.body
				FROM unnest($1, $2, $3, $4) WITH ORDINALITY u(tid, xmin, vector, body, place)
				JOIN ONLY %1$s t ON t.ctid = u.tid AND t.xmin = u.xmin
				FOR NO KEY UPDATE OF t SKIP LOCKED
			), written AS (
				UPDATE ONLY %1$s t SET %2$I = l.vector FROM locked l
				WHERE t.ctid = l.tid AND (l.vector IS NOT NULL OR t.%2$I IS NOT NULL)
				RETURNING l.place, t.%2$I IS NOT NULL AS has
			)
			SELECT array_agg(l.place), array_agg(l.place) FILTER (WHERE w.has IS NOT TRUE AND NOT distilface.is_blank(l.body, %3$L))
			FROM locked l LEFT JOIN written w ON w.place = l.place', leaf, p.target, p.revision)
			INTO settled, untouched USING tids, xmins, vectors, texts;
		PERFORM distilface.note_failure(p, leaf, keys[i], tids[i], '09000',
			'the vector was not stored: a trigger of the table left the row as it was') FROM unnest(untouched) i;
		RETURN coalesce(settled, '{}');
	END IF;

	SELECT array_agg(k.key ORDER BY k.place, c.seq), array_agg(c.seq ORDER BY k.place, c.seq),
			array_agg(c.chunk ORDER BY k.place, c.seq), array_agg(c.tokens ORDER BY k.place, c.seq),
			array_agg(c.start_char ORDER BY k.place, c.seq), array_agg(c.end_char ORDER BY k.place, c.seq)
		INTO own, seqs, chunks, tokens, starts, ends
		FROM unnest(keys, texts) WITH ORDINALITY k(key, body, place)
		CROSS JOIN LATERAL @extschema@.distilface_chunk(k.body, p.chunk_tokens, p.chunk_overlap, p.model) c;
	vectors := @extschema@.distilface_embed(chunks, p.model);
	-- A row that is locked here cannot change its text before the transaction ends.
	EXECUTE format('WITH locked AS MATERIALIZED (
			SELECT u.place FROM unnest($1, $2) WITH ORDINALITY u(tid, xmin, place)
			JOIN ONLY %s t ON t.ctid = u.tid AND t.xmin = u.xmin
			FOR NO KEY UPDATE OF t SKIP LOCKED)
		SELECT array_agg(place) FROM locked', leaf)
		INTO settled USING tids, xmins;
	settled := coalesce(settled, '{}');
	EXECUTE format('DELETE FROM %s c USING unnest($1) WITH ORDINALITY k(key, place) WHERE k.place = ANY ($2) AND %s',
		p.chunk_table, distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', 'k.key'))
		USING keys, settled;
	EXECUTE format('INSERT INTO %s (%s, seq, chunk, tokens, start_char, end_char, e)
		SELECT %s, k.seq, k.chunk, k.tokens, k.first, k.last, k.vector
		FROM unnest($1, $2, $3, $4, $5, $6, $7) k(key, seq, chunk, tokens, first, last, vector)
		WHERE k.vector IS NOT NULL AND k.key IN (SELECT s.key FROM unnest($8) WITH ORDINALITY s(key, place) WHERE s.place = ANY ($9))',
		p.chunk_table, distilface.listed(p.chunk_keys),
		(SELECT string_agg(format('((k.key)::text[])[%s]::%s', n.place, n.type), ', ' ORDER BY n.place)
			FROM unnest(p.key_types) WITH ORDINALITY n(type, place)))
		USING own, seqs, chunks, tokens, starts, ends, vectors, keys, settled;
	EXECUTE format('SELECT array_agg(k.place) FROM unnest($1, $2) WITH ORDINALITY k(key, body, place)
			WHERE k.place = ANY ($3) AND NOT distilface.is_blank(k.body, %L) AND NOT EXISTS (SELECT FROM %s c WHERE %s)',
		p.revision, p.chunk_table, distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', 'k.key'))
		INTO untouched USING keys, texts, settled;
	PERFORM distilface.note_failure(p, leaf, keys[i], tids[i], '09000',
		'no chunks were stored: a trigger of the table of chunks left them out') FROM unnest(untouched) i;
	RETURN settled;
END
$$;

-- The same where a row may be a bad one: the rows are halved until it stands alone, and it is noted.
CREATE FUNCTION distilface.write_good_rows(p distilface.pipeline, leaf regclass, keys text[], tids tid[],
		xmins xid[], texts text[])
	RETURNS bigint[]
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	count CONSTANT integer := cardinality(tids);
	half CONSTANT integer := cardinality(tids) / 2;
	state text;
	message text;
BEGIN
	IF count = 0 THEN
		RETURN '{}';
	END IF;
	BEGIN
		RETURN distilface.write_rows(p, leaf, keys, tids, xmins, texts);
	EXCEPTION WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
		IF distilface.is_passing(state) THEN
			RAISE;
		END IF;
	END;
	IF count = 1 THEN
		PERFORM distilface.note_failure(p, leaf, keys[1], tids[1], state, message);
		RETURN '{1}';
	END IF;
	RETURN distilface.write_good_rows(p, leaf, keys[:half], tids[:half], xmins[:half], texts[:half])
		|| ARRAY(SELECT place + half FROM unnest(
			distilface.write_good_rows(p, leaf, keys[half + 1:], tids[half + 1:], xmins[half + 1:], texts[half + 1:])) place);
END
$$;

-- The current rows of some keys, each with the partition it lies in. Where one text alone exceeds the
-- bytes, it comes alone.
CREATE FUNCTION distilface.read_keys(p distilface.pipeline, keys text[], bytes bigint,
		OUT leaf regclass, OUT key text, OUT tid tid, OUT xmin xid, OUT body text, OUT within boolean)
	RETURNS SETOF record
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
	SET enable_seqscan = off
AS $$
BEGIN
	RETURN QUERY EXECUTE format('SELECT s.leaf, s.key, s.tid, s.xmin, CASE WHEN s.upto - s.size < $2 THEN s.body END, s.upto - s.size < $2
		FROM (SELECT t.tableoid::regclass AS leaf, k.key, t.ctid AS tid, t.xmin, t.%1$I::text AS body,
				coalesce(octet_length(t.%1$I), 0) AS size,
				sum(coalesce(octet_length(t.%1$I), 0)) OVER (ORDER BY k.place) AS upto
			FROM unnest($1) WITH ORDINALITY k(key, place) JOIN %2$s t ON %3$s) s',
		p.source, p.relation, distilface.key_condition(p.relation, p.keys, p.key_types, 't', 'k.key'))
		USING keys, bytes;
END
$$;

-- Takes what waits in the queue: some keys with all their changes, each by the one who locks its
-- oldest change. The texts are read after that, so they are no older than the changes.
CREATE FUNCTION distilface.work_queue(p distilface.pipeline, bytes bigint, OUT claimed integer, OUT embedded bigint)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	changes bigint[];
	waiting text[];
	present text[] := '{}';
	settled text[] := '{}';
	part record;
	places bigint[];
BEGIN
	embedded := 0;
	SELECT array_agg(c.key) INTO waiting FROM (
		SELECT q.key FROM distilface.queue q
		WHERE q.pipeline = p.id AND NOT EXISTS (
			SELECT FROM distilface.queue o WHERE o.pipeline = q.pipeline AND o.key = q.key AND o.id < q.id)
		ORDER BY q.id LIMIT 256 FOR UPDATE OF q SKIP LOCKED) c;
	claimed := coalesce(cardinality(waiting), 0);
	IF claimed = 0 THEN
		RETURN;
	END IF;
	SELECT array_agg(c.id) INTO changes FROM (
		SELECT q.id FROM distilface.queue q WHERE q.pipeline = p.id AND q.key = ANY (waiting)
		FOR UPDATE SKIP LOCKED) c;
	FOR part IN SELECT r.leaf, array_agg(r.key) AS keys, array_agg(r.tid) AS tids, array_agg(r.xmin) AS xmins,
			array_agg(r.body) AS texts, r.within
			FROM distilface.read_keys(p, waiting, bytes) r GROUP BY r.leaf, r.within LOOP
		present := present || part.keys;
		IF part.within THEN
			places := distilface.write_good_rows(p, part.leaf, part.keys, part.tids, part.xmins, part.texts);
			embedded := embedded + cardinality(places);
			settled := settled || ARRAY(SELECT part.keys[i] FROM unnest(places) i);
		END IF;
	END LOOP;
	-- A row that is not there any more needs nothing.
	settled := settled || ARRAY(SELECT k FROM unnest(waiting) k EXCEPT SELECT k FROM unnest(present) k);
	DELETE FROM distilface.queue q WHERE q.id = ANY (changes) AND q.key = ANY (settled);
	DELETE FROM distilface.failed_rows f WHERE f.pipeline = p.id AND f.relation = p.relation AND f.key = ANY (settled)
		AND f.failed_at < now();
END
$$;

-- The next rows of a table that have a text and no vector, in the order of their places.
CREATE FUNCTION distilface.read_places(p distilface.pipeline, leaf regclass, after tid, bytes bigint,
		OUT keys text[], OUT tids tid[], OUT xmins xid[], OUT texts text[])
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
	-- What is left is a TID range scan, which gives places in their order.
	SET enable_seqscan = off SET enable_indexscan = off SET enable_indexonlyscan = off
	SET enable_bitmapscan = off SET max_parallel_workers_per_gather = 0 SET synchronize_seqscans = off
AS $$
BEGIN
	EXECUTE format('SELECT array_agg(s.key), array_agg(s.tid), array_agg(s.xmin), array_agg(s.body)
		FROM (SELECT %3$s AS key, t.ctid AS tid, t.xmin, t.%1$I::text AS body, octet_length(t.%1$I) AS size,
				sum(octet_length(t.%1$I)) OVER (ROWS UNBOUNDED PRECEDING) AS upto
			FROM ONLY %2$s t WHERE t.ctid > $1 AND t.%1$I IS NOT NULL%4$s LIMIT 2048) s
		WHERE s.upto - s.size < $2',
		p.source, leaf,
		CASE WHEN cardinality(p.keys) > 0 THEN distilface.key_expression(p.keys, 't') ELSE 'NULL::text' END,
		CASE WHEN p.chunk_table IS NULL THEN format(' AND t.%I IS NULL', p.target) ELSE '' END)
		INTO keys, tids, xmins, texts USING after, bytes;
END
$$;

-- The tables that a pipeline's rows lie in, each with its copy of the trigger that holds the columns: a
-- partition that was detached and comes back has another.
CREATE FUNCTION distilface.leaves(pipeline integer, relation regclass, OUT leaf oid, OUT mark oid) RETURNS SETOF record
	LANGUAGE sql STABLE ROWS 10
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT c.oid, t.oid FROM (SELECT relation::oid AS oid UNION SELECT l.relid::oid FROM pg_partition_tree(relation) l) l
	JOIN pg_class c ON c.oid = l.oid AND c.relkind = 'r'
	JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgfoid = 'distilface.pipeline_trigger()'::regprocedure
		AND t.tgattr <> ''::int2vector
		AND t.tgargs = convert_to(pipeline::text, 'SQL_ASCII') || '\x00'::bytea || 'columns'::bytea || '\x00'::bytea
$$;

-- Whether a partition came since the table was filled.
CREATE FUNCTION distilface.has_new_leaf(pipeline integer, relation regclass) RETURNS boolean LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'p')
		AND EXISTS (SELECT FROM distilface.leaves(has_new_leaf.pipeline, relation) l
			LEFT JOIN distilface.backfills b ON b.pipeline = has_new_leaf.pipeline AND b.relation = l.leaf AND b.mark = l.mark
			WHERE b.done IS NOT TRUE)
$$;

-- The first place of a table where a row lacks its vector, and neither waits in the queue nor failed.
-- One statement sees each row once, wherever updates move it: what it does not find is not there.
CREATE FUNCTION distilface.open_place(p distilface.pipeline, leaf regclass) RETURNS tid
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $$
DECLARE
	place tid;
BEGIN
	EXECUTE format('SELECT min(t.ctid) FROM ONLY %1$s t WHERE %2$s
			AND NOT EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = $1 AND q.key = %3$s)
			AND NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = $1 AND f.relation = $2 AND f.key = %3$s)',
		leaf, distilface.lacks_vector(p), distilface.row_key(p))
		INTO place USING p.id, CASE WHEN cardinality(p.keys) > 0 THEN p.relation ELSE leaf END;
	RETURN place;
END
$$;

-- The start of the page that a place lies on.
CREATE FUNCTION distilface.page_of(place tid) RETURNS tid LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT format('(%s,0)', (place::text::point)[0]::bigint)::tid $$;

-- Where a filled table has open rows after all, it is to be filled again from there. Whether it has.
CREATE FUNCTION distilface.look_again(p distilface.pipeline) RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	part record;
	place tid;
	found_any boolean := false;
BEGIN
	FOR part IN SELECT l.leaf, l.mark FROM distilface.leaves(p.id, p.relation) l LOOP
		place := distilface.open_place(p, part.leaf);
		found_any := found_any OR place IS NOT NULL;
		INSERT INTO distilface.backfills AS b (pipeline, relation, mark, filenode, place, done)
			VALUES (p.id, part.leaf, part.mark, coalesce(pg_relation_filenode(part.leaf), 0),
				coalesce(distilface.page_of(place), '(0,0)'), place IS NULL)
			ON CONFLICT ON CONSTRAINT backfills_pkey DO UPDATE SET mark = excluded.mark, filenode = excluded.filenode,
				place = excluded.place, pass = 1, left_over = 0, done = excluded.done;
	END LOOP;
	IF found_any THEN
		PERFORM distilface.as_keeper(p.relation, 'keeper_mark', jsonb_build_object('pipeline', p.id, 'filled', false));
	END IF;
	RETURN found_any;
END
$$;

-- Fills a table in the order of its rows' places, which every table has. Rows written meanwhile are the
-- trigger's; a row that was locked, or that an update moved to a page that was passed, is taken in
-- another pass.
CREATE FUNCTION distilface.backfill(p distilface.pipeline, bytes bigint,
		OUT embedded bigint, OUT finished boolean, OUT pause double precision)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET lc_monetary = 'C'
AS $$
DECLARE
	state distilface.backfills;
	keys text[];
	tids tid[];
	xmins xid[];
	texts text[];
	next_place tid;
	open_places bigint[];
	settled bigint[];
BEGIN
	embedded := 0;
	finished := false;
	pause := 0;
	DELETE FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT EXISTS (
		SELECT FROM distilface.leaves(p.id, p.relation) l WHERE l.leaf = b.relation AND l.mark = b.mark);
	WITH new AS (
		INSERT INTO distilface.backfills (pipeline, relation, mark, filenode)
			SELECT p.id, l.leaf, l.mark, coalesce(pg_relation_filenode(l.leaf), 0)
			FROM distilface.leaves(p.id, p.relation) l
			ON CONFLICT DO NOTHING RETURNING relation)
	-- Places that were noted before, as those of a table that was restored, say nothing of these rows.
	DELETE FROM distilface.failed_rows f USING new
		WHERE cardinality(p.keys) = 0 AND f.pipeline = p.id AND f.relation = new.relation;
	SELECT b.* INTO state FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT b.done
		ORDER BY b.relation LIMIT 1 FOR UPDATE SKIP LOCKED;
	IF state.pipeline IS NULL THEN
		finished := NOT EXISTS (SELECT FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT b.done);
		pause := CASE WHEN finished THEN 0 ELSE 0.2 END;
		RETURN;
	END IF;
	-- VACUUM FULL, CLUSTER and the like give rows other places.
	IF state.filenode <> pg_relation_filenode(state.relation) THEN
		state.filenode := pg_relation_filenode(state.relation);
		state.place := '(0,0)';
	END IF;
	-- What came to a filled table is most often empty, or has its vectors.
	IF NOT p.filled OR state.pass > 1 OR state.place <> '(0,0)' THEN
		SELECT r.* INTO keys, tids, xmins, texts FROM distilface.read_places(p, state.relation, state.place, bytes) r;
	END IF;
	IF tids IS NULL THEN
		next_place := distilface.open_place(p, state.relation);
		pause := CASE WHEN state.left_over > 0 AND next_place IS NOT NULL THEN least(0.1 * state.pass, 5) ELSE 0 END;
		UPDATE distilface.backfills b SET done = next_place IS NULL, filenode = state.filenode, left_over = 0,
				place = coalesce(distilface.page_of(next_place), '(0,0)'), pass = b.pass + 1
			WHERE b.pipeline = p.id AND b.relation = state.relation;
		finished := NOT EXISTS (SELECT FROM distilface.backfills b WHERE b.pipeline = p.id AND NOT b.done);
		RETURN;
	END IF;
	-- Bad rows wait for distilface_retry; a row that has chunks was done before.
	EXECUTE format('SELECT array_agg(u.place) FROM unnest($1, $2) WITH ORDINALITY u(key, tid, place)
		WHERE NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = $3 AND f.key = coalesce(u.key, u.tid::text)
			AND f.relation = CASE WHEN u.key IS NULL THEN $4 ELSE $5 END)%s',
		CASE WHEN p.chunk_table IS NULL THEN '' ELSE format(' AND NOT EXISTS (SELECT FROM %s c WHERE %s)', p.chunk_table,
			distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', 'u.key')) END)
		INTO open_places USING keys, tids, p.id, state.relation, p.relation::oid;
	settled := distilface.write_good_rows(p, state.relation,
		ARRAY(SELECT keys[i] FROM unnest(open_places) i), ARRAY(SELECT tids[i] FROM unnest(open_places) i),
		ARRAY(SELECT xmins[i] FROM unnest(open_places) i), ARRAY(SELECT texts[i] FROM unnest(open_places) i));
	embedded := cardinality(settled);
	UPDATE distilface.backfills b
		SET place = tids[cardinality(tids)], filenode = state.filenode,
			left_over = b.left_over + coalesce(cardinality(open_places), 0) - embedded
		WHERE b.pipeline = p.id AND b.relation = state.relation;
END
$$;

-- Rows that failed, are still there and have no vector yet. In the queue form a row keeps the vector of
-- its former text, and what came to be right has left the list.
CREATE FUNCTION distilface.failing(p distilface.pipeline, OUT relation regclass, OUT key text) RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3
	SET timezone = 'UTC' SET bytea_output = 'hex' SET lc_monetary = 'C'
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM distilface.failed_rows f WHERE f.pipeline = p.id) THEN
		RETURN;
	END IF;
	RETURN QUERY EXECUTE format('SELECT f.relation, f.key FROM distilface.failed_rows f WHERE f.pipeline = $1
			AND EXISTS (SELECT FROM %s t WHERE %s AND f.key = %s AND f.relation = %s)%s',
		p.relation, CASE p.form WHEN 'queue' THEN format('t.%I IS NOT NULL', p.source) ELSE distilface.lacks_vector(p) END,
		distilface.row_key(p), CASE WHEN cardinality(p.keys) > 0 THEN p.relation::oid::text ELSE 't.tableoid' END,
		-- A restored table has other places.
		CASE WHEN cardinality(p.keys) > 0 THEN '' ELSE
			' AND EXISTS (SELECT FROM distilface.backfills b WHERE b.pipeline = $1 AND b.relation = f.relation)' END)
		USING p.id;
END
$$;

-- Failures of rows that were mended or deleted are none.
CREATE FUNCTION distilface.tidy_failures(p distilface.pipeline) RETURNS void LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	DELETE FROM distilface.failed_rows f WHERE f.pipeline = p.id
		AND NOT EXISTS (SELECT FROM distilface.failing(p) g WHERE g.relation = f.relation AND g.key = f.key)
$$;

-- With rows out of the owner's sight, a changed row would look like a deleted one.
CREATE FUNCTION distilface.require_sight(p distilface.pipeline) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	hidden regclass;
BEGIN
	SELECT r.oid::regclass INTO hidden FROM (SELECT p.relation::oid AS oid UNION SELECT p.chunk_table::oid
			UNION SELECT l.relid::oid FROM pg_partition_tree(p.relation) l) r
		WHERE row_security_active(r.oid) LIMIT 1;
	IF hidden IS NOT NULL THEN
		RAISE EXCEPTION 'table % hides rows from its owner', hidden
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'It has FORCE ROW LEVEL SECURITY, and a pipeline works as the owner.',
			HINT = 'ALTER TABLE ... NO FORCE ROW LEVEL SECURITY.';
	END IF;
END
$$;

-- One short transaction's worth of a pipeline's work. Where args say look, a filled table is looked
-- through for rows that lost their vector, or got none by a way that fires no trigger.
CREATE FUNCTION distilface.owner_step(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	p distilface.pipeline;
	began CONSTANT timestamptz := clock_timestamp();
	-- About four bytes a token.
	bytes CONSTANT bigint := 4 * current_setting('distilface.backfill_batch_tokens')::bigint;
	per_second CONSTANT integer := current_setting('distilface.backfill_rows_per_second')::integer;
	queue record;
	fill record;
	filling boolean;
	again boolean := false;
	pause double precision := 0;
	written bigint := 0;
	seconds double precision;
BEGIN
	SELECT d.* INTO p FROM distilface.describe(owner_step.target) d WHERE d.id = (args ->> 'pipeline')::integer;
	IF p.id IS NULL THEN
		RETURN '{"again": false, "pause": 0, "filled": true, "gone": true}';
	END IF;
	PERFORM distilface.require_sight(p);
	-- What the table's owner put off to the end of the transaction runs now, as the owner.
	SET CONSTRAINTS ALL IMMEDIATE;
	IF p.form <> 'generated' AND p.filled AND (args ->> 'look')::boolean THEN
		PERFORM distilface.tidy_failures(p);
		p.filled := NOT distilface.look_again(p);
	END IF;
	filling := p.form <> 'generated' AND (NOT p.filled OR distilface.has_new_leaf(p.id, p.relation));
	IF p.form = 'queue' OR p.chunk_table IS NOT NULL OR EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = p.id) THEN
		SELECT q.* INTO queue FROM distilface.work_queue(p, bytes) q;
		written := queue.embedded;
		again := queue.claimed > 0;
		-- Whoever has the rows locked needs time.
		pause := CASE WHEN queue.claimed > 0 AND queue.embedded = 0 THEN 0.1 ELSE 0 END;
	END IF;
	IF filling THEN
		again := true;
		SELECT f.* INTO fill FROM distilface.backfill(p, bytes) f;
		written := written + fill.embedded;
		pause := greatest(fill.pause, pause);
		IF fill.finished AND NOT p.filled THEN
			IF p.build_index = 'after' AND NOT p.made_index THEN
				PERFORM distilface.build_index(p);
			END IF;
			PERFORM distilface.as_keeper(p.relation, 'keeper_mark', jsonb_build_object('pipeline', p.id, 'filled', true));
			p.filled := true;
		END IF;
		IF fill.finished THEN
			again := p.form = 'queue';
		END IF;
		IF per_second > 0 THEN
			pause := greatest(pause, fill.embedded / per_second::double precision
				- extract(epoch FROM clock_timestamp() - began)::double precision);
		END IF;
	END IF;
	IF NOT again THEN
		PERFORM distilface.tidy_failures(p);
	END IF;
	seconds := greatest(extract(epoch FROM clock_timestamp() - began)::double precision + pause, 1e-6);
	IF written > 0 THEN
		INSERT INTO distilface.activity AS a (pipeline, embedded, last_run, rows_per_second)
			VALUES (p.id, written, now(), written / seconds)
			ON CONFLICT ON CONSTRAINT activity_pkey DO UPDATE
				SET embedded = a.embedded + excluded.embedded, last_run = excluded.last_run,
					rows_per_second = excluded.rows_per_second * 0.3 + coalesce(a.rows_per_second, excluded.rows_per_second) * 0.7;
	END IF;
	RETURN jsonb_build_object('again', again, 'pause', pause, 'filled', p.filled, 'gone', false);
END
$$;

CREATE FUNCTION distilface.step(pipeline integer, look boolean DEFAULT false,
		OUT again boolean, OUT pause double precision, OUT filled boolean, OUT gone boolean)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	relation CONSTANT regclass := (SELECT p.relation FROM distilface.pipelines p WHERE p.id = step.pipeline);
	state jsonb;
BEGIN
	IF EXISTS (SELECT FROM pg_class c WHERE c.oid = relation) THEN
		state := distilface.as_owner(relation, 'owner_step', jsonb_build_object('pipeline', pipeline, 'look', look));
	END IF;
	again := coalesce((state ->> 'again')::boolean, false);
	pause := coalesce((state ->> 'pause')::double precision, 0);
	filled := coalesce((state ->> 'filled')::boolean, true);
	gone := coalesce((state ->> 'gone')::boolean, true);
END
$$;

-- The same where an error must not stop the rest: it becomes a note, and what the caller is told.
CREATE FUNCTION distilface.attempt(pipeline integer, look boolean DEFAULT false,
		OUT again boolean, OUT pause double precision, OUT filled boolean, OUT gone boolean, OUT error jsonb)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	SELECT s.again, s.pause, s.filled, s.gone INTO again, pause, filled, gone
		FROM distilface.step(attempt.pipeline, attempt.look) s;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	-- Only who may work on a table may note something about it.
	IF NOT EXISTS (SELECT FROM distilface.pipelines p JOIN pg_class c ON c.oid = p.relation
			WHERE p.id = attempt.pipeline AND pg_has_role(c.relowner, 'USAGE')) THEN
		RAISE;
	END IF;
	again := true;
	pause := 10;
	filled := false;
	gone := false;
	error := jsonb_build_object('pipeline', pipeline, 'state', state, 'message', message, 'detail', detail, 'hint', hint);
	PERFORM distilface.note_error(attempt.pipeline, message);
END
$$;

-- Raises what attempts came upon, where a pipeline is there to go on with.
CREATE FUNCTION distilface.require_success(error jsonb, gone boolean DEFAULT false) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	IF gone THEN
		RAISE EXCEPTION 'the pipeline was ended meanwhile' USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = 'distilface_unvectorize and distilface_revectorize_abort do that, and so does a dropped table. See distilface.pipelines.';
	ELSIF error ->> 'detail' <> '' AND error ->> 'hint' <> '' THEN
		RAISE EXCEPTION '%', error ->> 'message'
			USING ERRCODE = error ->> 'state', DETAIL = error ->> 'detail', HINT = error ->> 'hint';
	ELSIF error ->> 'detail' <> '' THEN
		RAISE EXCEPTION '%', error ->> 'message' USING ERRCODE = error ->> 'state', DETAIL = error ->> 'detail';
	ELSIF error ->> 'hint' <> '' THEN
		RAISE EXCEPTION '%', error ->> 'message' USING ERRCODE = error ->> 'state', HINT = error ->> 'hint';
	ELSIF error IS NOT NULL THEN
		RAISE EXCEPTION '%', error ->> 'message' USING ERRCODE = error ->> 'state';
	END IF;
END
$$;

-- The same at the end of a run over some pipelines.
CREATE FUNCTION distilface.require_successes(errors jsonb[], pipelines integer[]) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	IF cardinality(pipelines) = 1 THEN
		PERFORM distilface.require_success(errors[1]);
	ELSIF cardinality(errors) > 0 THEN
		RAISE EXCEPTION '% of % pipelines failed', cardinality(errors), cardinality(pipelines)
			USING ERRCODE = errors[1] ->> 'state',
			DETAIL = (SELECT string_agg(format('%s (pipeline %s): %s', d.relation, e ->> 'pipeline', e ->> 'message'), E'\n'
					ORDER BY d.id)
				FROM unnest(errors) e LEFT JOIN distilface.pipelines d ON d.id = (e ->> 'pipeline')::integer),
			HINT = 'The others went on. See last_error of distilface.progress.';
	END IF;
END
$$;

CREATE FUNCTION distilface.with_work() RETURNS integer[] LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce(array_agg(d.id ORDER BY d.id), '{}') FROM distilface.describe() d
	JOIN pg_class c ON c.oid = d.relation AND c.relpersistence <> 't'
	WHERE NOT d.filled OR EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = d.id)
		OR d.form <> 'generated' AND distilface.has_new_leaf(d.id, d.relation)
$$;

-- The chunk trigger: one row, at once.
CREATE FUNCTION distilface.refresh_now(pipeline integer, key text) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	p distilface.pipeline;
	part record;
BEGIN
	SELECT d.* INTO p FROM distilface.pipelines r CROSS JOIN LATERAL distilface.describe(r.relation) d
		WHERE r.id = refresh_now.pipeline AND d.id = r.id;
	FOR part IN SELECT * FROM distilface.read_keys(p, ARRAY[refresh_now.key], 1) LOOP
		PERFORM distilface.write_rows(p, part.leaf, ARRAY[part.key], ARRAY[part.tid], ARRAY[part.xmin], ARRAY[part.body]);
	END LOOP;
END
$$;

-- The same where a row goes from its partition: its key may come back in another.
CREATE FUNCTION distilface.drop_chunks(pipeline integer, key text) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off SET enable_seqscan = off SET lc_monetary = 'C'
AS $$
DECLARE
	p distilface.pipeline;
BEGIN
	SELECT d.* INTO p FROM distilface.pipelines r CROSS JOIN LATERAL distilface.describe(r.relation) d
		WHERE r.id = drop_chunks.pipeline AND d.id = r.id;
	EXECUTE format('DELETE FROM %s c WHERE %s', p.chunk_table,
		distilface.key_condition(p.chunk_table, p.chunk_keys, p.key_types, 'c', '$1')) USING drop_chunks.key;
END
$$;

CREATE PROCEDURE distilface_run("table" regclass DEFAULT NULL)
	LANGUAGE plpgsql
AS $$
DECLARE
	pipeline integer;
	queue integer[];
	look boolean;
	more boolean;
	wait double precision;
	error pg_catalog.jsonb;
	errors pg_catalog.jsonb[];
BEGIN
	PERFORM distilface.require_no_block('distilface_run');
	COMMIT;
	queue := distilface.runnable("table");
	COMMIT;
	FOREACH pipeline IN ARRAY queue LOOP
		look := "table" IS NOT NULL;
		LOOP
			SELECT s.again, s.pause, s.error INTO more, wait, error FROM distilface.attempt(pipeline, look) s;
			COMMIT;
			IF error IS NOT NULL THEN
				errors := pg_catalog.array_append(errors, error);
				EXIT;
			END IF;
			EXIT WHEN NOT more;
			look := false;
			PERFORM pg_catalog.pg_sleep(wait);
		END LOOP;
	END LOOP;
	PERFORM distilface.require_successes(errors, queue);
END
$$;
COMMENT ON PROCEDURE distilface_run(regclass) IS
	'embeds what waits, of all tables that the caller owns or of one, which it looks through for rows without a vector';

CREATE FUNCTION distilface.runnable("table" regclass) RETURNS integer[] LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce(array_agg(d.id ORDER BY d.id), '{}') FROM distilface.describe("table") d
	JOIN pg_class c ON c.oid = d.relation
	WHERE pg_has_role(c.relowner, 'USAGE') OR "table" IS NOT NULL
$$;
