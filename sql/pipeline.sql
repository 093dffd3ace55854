-- Tables that keep themselves embedded.
--
-- A pipeline is a row of distilface.pipelines and two triggers on its table. One acts (embeds, or
-- queues the row's key); the other never fires and holds the columns in its UPDATE OF list, where
-- PostgreSQL keeps them true through renames, partitions and dumps: source, target (not for chunks),
-- key columns. Functions named owner_… run as the table's owner, through distilface.as_owner; the
-- catalogs' row security then shows an owner what belongs to its tables and nothing else. Procedures
-- commit, so they can have no SET clause: they hold qualified calls and not one operator.
--
-- Here is what a pipeline is, how its rows are known, and how they are written; sql/pipeline_run.sql says
-- which and when.

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
	RETURNS text[] LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	RETURN coalesce((
		SELECT (SELECT array_agg(a.attname::text ORDER BY k.place)
				FROM unnest(attnums) WITH ORDINALITY k(attnum, place)
				JOIN pg_attribute a ON a.attrelid = f.conrelid
					AND a.attnum = f.conkey[array_position(f.confkey, k.attnum)])
			FROM pg_constraint f
			WHERE f.contype = 'f' AND f.conrelid = chunk_table AND f.confrelid = relation
				AND f.confkey @> attnums AND f.confkey <@ attnums
			-- Ours is of the table's own key.
			ORDER BY EXISTS (SELECT FROM pg_constraint u WHERE u.conrelid = chunk_table AND u.contype = 'p'
				AND u.conkey @> f.conkey) DESC, f.oid LIMIT 1), names);
END
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

-- In PL/pgSQL, which keeps the plan: each row that is chunked at once asks.
CREATE FUNCTION distilface.describe(target regclass DEFAULT NULL) RETURNS SETOF distilface.pipeline
	LANGUAGE plpgsql STABLE ROWS 5
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	RETURN QUERY SELECT p.id, p.relation, p.form, p.model, p.revision, p.chunk_table, p.chunk_tokens,
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
	ORDER BY p.id;
END
$$;
COMMENT ON FUNCTION distilface.describe(regclass) IS 'the pipelines of a table, with their columns';

-- The operator that tells a key column's values equal: that of a unique index over it, whatever the search
-- path and the type.
CREATE FUNCTION distilface.equality_of(relation regclass, key text) RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce((SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
		FROM pg_index i
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attname = equality_of.key
		CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY u(attnum, place)
		JOIN pg_opclass c ON c.oid = i.indclass[u.place - 1]
		JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
			AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
		JOIN pg_operator o ON o.oid = m.amopopr
		JOIN pg_namespace n ON n.oid = o.oprnamespace
		WHERE i.indrelid = relation AND i.indisunique AND u.attnum = a.attnum AND u.place <= i.indnkeyatts
		LIMIT 1), 'OPERATOR(pg_catalog.=)')
$$;

-- The condition that finds a row of `alias` by `key`, the text of an array of texts.
CREATE FUNCTION distilface.key_condition(relation regclass, keys text[], types text[], alias text, key text)
	RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT string_agg(format('%s.%I %s ((%s)::text[])[%s]::%s', alias, k.name,
		distilface.equality_of(relation, k.name), key, k.place, k.type), ' AND ' ORDER BY k.place)
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

-- Whether a pipeline needs its keys, which are then columns of its trigger.
CREATE FUNCTION distilface.has_own_keys(p distilface.pipeline) RETURNS boolean LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$ SELECT p.form = 'queue' OR p.chunk_table IS NOT NULL $$;

-- Whether a row t of a pipeline's table has a vector, or chunks.
CREATE FUNCTION distilface.has_vector(p distilface.pipeline) RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN p.chunk_table IS NULL THEN format('(t.%I IS NOT NULL)', p.target)
		ELSE format('EXISTS (SELECT FROM %s c WHERE %s)', p.chunk_table,
			(SELECT string_agg(format('c.%I %s t.%I', k.own, distilface.equality_of(p.chunk_table, k.own), k.name), ' AND ')
				FROM unnest(p.chunk_keys, p.keys) k(own, name))) END
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
