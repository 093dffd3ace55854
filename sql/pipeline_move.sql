-- A pipeline's move to another model: a successor beside it, filled while the table is in use, which then
-- takes its place and its names.
--
-- What hangs on the old vectors goes over to the new ones: settings, grants, comments and indexes; for a
-- table of chunks its policies too. An index's twin is known by its definition, never by its name. What
-- cannot go over is named, before the fill and again before the exchange. Before the fill the exchange is
-- also rehearsed, and rolled back, with the successor still empty.

-- A name that is not taken, for as long as the successor stands beside what it replaces.
CREATE FUNCTION distilface.free_name(name text, taken text[]) RETURNS text
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	ending text := '_next';
	beginning text := name;
	number integer := 1;
BEGIN
	LOOP
		WHILE octet_length(beginning || ending) > 63 LOOP
			beginning := left(beginning, -1);
		END LOOP;
		EXIT WHEN NOT beginning || ending = ANY (taken);
		number := number + 1;
		ending := '_next' || number;
	END LOOP;
	RETURN beginning || ending;
END
$$;

CREATE FUNCTION distilface.relations_in(place regclass) RETURNS text[] LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT coalesce(array_agg(c.relname::text), '{}') FROM pg_class c
	WHERE c.relnamespace = (SELECT r.relnamespace FROM pg_class r WHERE r.oid = place)
$$;

-- A table and its partitions; an index, likewise.
CREATE FUNCTION distilface.tree(place regclass) RETURNS SETOF regclass LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$ SELECT place UNION SELECT t.relid FROM pg_partition_tree(place) t $$;

-- What follows an index's name and table in its definition.
CREATE FUNCTION distilface.index_tail(index regclass) RETURNS text LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT substr(s.definition, length(s.beginning) + 1) FROM (
		SELECT pg_get_indexdef(i.indexrelid) AS definition, format('CREATE %sINDEX %I ON %s%I.%I ',
			CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname,
			CASE WHEN x.relkind = 'I' THEN 'ONLY ' ELSE '' END, v.schema, c.relname) AS beginning
		FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		CROSS JOIN LATERAL (VALUES (n.nspname::text), ('pg_temp')) v(schema)
		WHERE i.indexrelid = index) s
	WHERE starts_with(s.definition, s.beginning)
$$;

-- The indexes that a column's going takes along, but for those of partitions that follow from their
-- parent's; of a table of chunks, all but its key's.
CREATE FUNCTION distilface.indexes_over(p distilface.pipeline) RETURNS SETOF regclass LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT i.indexrelid::regclass FROM distilface.tree(coalesce(p.chunk_table, p.relation)) t
	JOIN pg_index i ON i.indrelid = t JOIN pg_class c ON c.oid = i.indexrelid
	WHERE NOT c.relispartition AND (i.indisvalid OR c.relkind = 'I')
	AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
	AND (p.chunk_table IS NOT NULL OR EXISTS (SELECT FROM pg_depend d
		JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attname = p.target
		WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
		AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid))
	ORDER BY i.indexrelid
$$;

-- The indexes over the old vectors, each with the definition that its twin has over the new ones, and
-- the twin where there is one. PostgreSQL writes the definitions itself: the column is renamed to a
-- word that occurs nowhere, in a subtransaction that is rolled back and lets go of its lock.
CREATE FUNCTION distilface.twins(old distilface.pipeline, shadow distilface.pipeline,
		OUT index regclass, OUT place regclass, OUT tail text, OUT expressions text, OUT twin regclass)
	RETURNS SETOF record
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	mark CONSTANT text := 'distilface_' || md5(random()::text);
	wanted jsonb;
BEGIN
	IF NOT EXISTS (SELECT FROM distilface.indexes_over(old)) THEN
		RETURN;
	END IF;
	BEGIN
		EXECUTE format('ALTER TABLE %s RENAME COLUMN %I TO %I', coalesce(old.chunk_table, old.relation), old.target, mark);
		SELECT jsonb_agg(jsonb_build_object('index', i.indexrelid, 'place', coalesce(shadow.chunk_table::oid, i.indrelid),
			'tail', replace(distilface.index_tail(i.indexrelid), mark, quote_ident(shadow.target)),
			'expressions', replace(concat_ws(', ', pg_get_expr(i.indexprs, i.indrelid), pg_get_expr(i.indpred, i.indrelid)), mark,
				format('(array_fill(0.5::real, ARRAY[%1$s])::@extschema@.embedding(%1$s))',
					(SELECT m.dimensions FROM distilface.models m WHERE m.name = shadow.model)))))
			INTO wanted FROM pg_index i
			WHERE i.indexrelid IN (SELECT distilface.indexes_over(jsonb_populate_record(old, jsonb_build_object('target', mark))));
		RAISE EXCEPTION USING ERRCODE = 'DF001', MESSAGE = 'the definitions are read';
	EXCEPTION WHEN SQLSTATE 'DF001' THEN
		NULL;
	END;
	RETURN QUERY
		SELECT w.index::regclass, w.place::regclass, w.tail, w.expressions, t.index
		FROM (SELECT r.*, row_number() OVER (PARTITION BY r.place, r.tail ORDER BY r.index) AS number
			FROM jsonb_to_recordset(wanted) r(index oid, place oid, tail text, expressions text)) w
		LEFT JOIN (SELECT o.index, i.indrelid AS place, distilface.index_tail(o.index) AS tail,
				row_number() OVER (PARTITION BY i.indrelid, distilface.index_tail(o.index) ORDER BY o.index) AS number
			FROM distilface.indexes_over(shadow) o(index) JOIN pg_index i ON i.indexrelid = o.index AND i.indisvalid) t
			USING (place, tail, number);
END
$$;

-- Makes what twins are missing.
CREATE FUNCTION distilface.make_twins(old distilface.pipeline, shadow distilface.pipeline) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	missing record;
	name text;
BEGIN
	FOR missing IN SELECT t.*, x.relname, i.indisunique, s.spcname FROM distilface.twins(old, shadow) t
		JOIN pg_class x ON x.oid = t.index JOIN pg_index i ON i.indexrelid = t.index
		LEFT JOIN pg_tablespace s ON s.oid = x.reltablespace WHERE t.twin IS NULL LOOP
		name := distilface.free_name(missing.relname, distilface.relations_in(missing.place));
		PERFORM set_config('default_tablespace', coalesce(missing.spcname, ''), true);
		BEGIN
			-- The table may be empty: whether the new model's vectors have a place in the index is tried here.
			IF missing.expressions <> '' THEN
				EXECUTE format('SELECT %s FROM (SELECT) o LEFT JOIN ONLY %s t ON false', missing.expressions, missing.place);
			END IF;
			EXECUTE format('CREATE %sINDEX %I ON %s %s', CASE WHEN missing.indisunique THEN 'UNIQUE ' ELSE '' END, name,
				missing.place, missing.tail);
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			-- Those that are made stay; the rest are made before the exchange.
			RETURN;
		WHEN data_exception OR invalid_parameter_value OR datatype_mismatch THEN
			RAISE EXCEPTION 'index % cannot be made over vectors of model "%"', missing.index, shadow.model
				USING ERRCODE = 'dependent_objects_still_exist', DETAIL = SQLERRM,
				HINT = 'Drop the index, call again, and make it anew.';
		END;
		IF distilface.index_tail(format('%I.%I', (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE c.oid = missing.place), name)::regclass) IS DISTINCT FROM missing.tail THEN
			RAISE EXCEPTION 'index % means something else over vectors of model "%"', missing.index, shadow.model
				USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Drop the index, call again, and make it anew.';
		END IF;
	END LOOP;
END
$$;

-- Raises where something hangs on the old vectors that the new ones cannot take over.
CREATE FUNCTION distilface.require_movable(old distilface.pipeline, shadow distilface.pipeline) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	chunked CONSTANT boolean := old.chunk_table IS NOT NULL;
	hanging text[];
BEGIN
	SELECT array_agg(DISTINCT h.what ORDER BY h.what) INTO hanging FROM (
		SELECT CASE WHEN w.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, w.ev_class, 0)
				ELSE pg_describe_object(d.classid, d.objid, CASE WHEN o.relkind IN ('v', 'm') THEN 0 ELSE d.objsubid END) END AS what
			FROM distilface.tree(coalesce(old.chunk_table, old.relation)) r
			JOIN pg_class c ON c.oid = r
			LEFT JOIN pg_attribute a ON a.attrelid = r AND a.attname = old.target
			JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r AND (chunked OR d.refobjsubid = a.attnum)
				OR d.refclassid = 'pg_type'::regclass AND chunked
					AND d.refobjid IN (c.reltype, (SELECT y.typarray FROM pg_type y WHERE y.oid = c.reltype))
			LEFT JOIN pg_class o ON d.classid = 'pg_class'::regclass AND o.oid = d.objid
			LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
			LEFT JOIN pg_trigger t ON d.classid = 'pg_trigger'::regclass AND t.oid = d.objid
			LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
			LEFT JOIN pg_policy y ON d.classid = 'pg_policy'::regclass AND y.oid = d.objid
			WHERE d.deptype <> 'e' AND d.classid <> 'pg_type'::regclass
			-- What goes over, or is the pipeline's own.
			AND (o.relkind IN ('i', 'I', 't')) IS NOT TRUE
			AND (t.tgisinternal OR t.tgfoid = 'distilface.pipeline_trigger()'::regprocedure) IS NOT TRUE
			AND (chunked AND y.polrelid = r) IS NOT TRUE
			AND (k.conparentid <> 0) IS NOT TRUE
			AND NOT EXISTS (SELECT FROM pg_constraint n WHERE n.conrelid = shadow.chunk_table AND k.conrelid = old.chunk_table
				AND n.contype = k.contype AND pg_get_constraintdef(n.oid) = pg_get_constraintdef(k.oid))
		UNION ALL
		SELECT format('the label of a provider on column %s of table %s', a.attname, a.attrelid::regclass)
			FROM distilface.tree(coalesce(old.chunk_table, old.relation)) r JOIN pg_attribute a ON a.attrelid = r
			JOIN pg_seclabel l ON l.classoid = 'pg_class'::regclass AND l.objoid = r AND l.objsubid IN (0, a.attnum)
			WHERE chunked OR a.attname = old.target AND l.objsubid > 0
		UNION ALL
		SELECT format('NOT NULL of column %s of table %s', a.attname, a.attrelid::regclass)
			FROM distilface.tree(old.relation) r JOIN pg_attribute a ON a.attrelid = r
			WHERE NOT chunked AND a.attname = old.target AND a.attnotnull
		-- A column of chunks that is not as it was made. Those of the key are as the table has them now.
		UNION ALL
		SELECT format('column %s of table %s', a.attname, old.chunk_table)
			FROM pg_attribute a LEFT JOIN pg_attribute b ON b.attrelid = shadow.chunk_table AND b.attname = a.attname
			WHERE chunked AND a.attrelid = old.chunk_table AND a.attnum > cardinality(old.keys) AND NOT a.attisdropped
			AND ROW(a.atttypid, CASE WHEN a.attname <> old.target THEN a.atttypmod END, a.attnotnull, a.atthasdef, a.attidentity, a.attcollation)
				IS DISTINCT FROM ROW(b.atttypid, CASE WHEN a.attname <> old.target THEN b.atttypmod END, b.attnotnull, b.atthasdef, b.attidentity, b.attcollation)
	) h;
	IF cardinality(hanging) > 0 THEN
		RAISE EXCEPTION '"%" cannot move to model "%" with all that hangs on it', old.name, shadow.model
			USING ERRCODE = 'dependent_objects_still_exist',
			DETAIL = 'Not carried over: ' || array_to_string(hanging[:20], ', ') || CASE WHEN cardinality(hanging) > 20 THEN ', …' ELSE '' END,
			HINT = 'Drop what is named, CALL distilface_revectorize, and make it anew.';
	END IF;
END
$$;

-- A column's settings, comment and grants, as another one has them.
CREATE FUNCTION distilface.copy_column(from_table regclass, from_column text, to_table regclass, to_column text, grants boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	a record;
	b record;
	alter_column CONSTANT text := format('ALTER TABLE ONLY %s ALTER COLUMN %I SET ', to_table, to_column);
	statement text;
BEGIN
	SELECT t.* INTO a FROM pg_attribute t WHERE t.attrelid = from_table AND t.attname = from_column;
	SELECT t.* INTO b FROM pg_attribute t WHERE t.attrelid = to_table AND t.attname = to_column;
	IF a.attstorage <> b.attstorage THEN
		EXECUTE alter_column || 'STORAGE ' || (CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END);
	END IF;
	IF a.attcompression <> b.attcompression THEN
		EXECUTE alter_column || 'COMPRESSION ' || (CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' ELSE 'default' END);
	END IF;
	IF coalesce(a.attstattarget, -1) <> coalesce(b.attstattarget, -1) THEN
		EXECUTE alter_column || format('STATISTICS %s', coalesce(a.attstattarget, -1));
	END IF;
	FOR statement IN SELECT alter_column || format('(%I = %L)', o.option_name, o.option_value)
		FROM pg_options_to_table(a.attoptions) o WHERE o.option_name IN ('n_distinct', 'n_distinct_inherited') LOOP
		EXECUTE statement;
	END LOOP;
	IF grants THEN
		EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', to_table, to_column, col_description(from_table, a.attnum));
		FOR statement IN SELECT format('GRANT %s (%I) ON %s TO %s%s', g.privilege_type, to_column, to_table,
				coalesce(quote_ident(r.rolname), 'PUBLIC'), CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
			FROM aclexplode(a.attacl) g LEFT JOIN pg_roles r ON r.oid = g.grantee WHERE g.grantee = 0 OR r.oid IS NOT NULL LOOP
			EXECUTE statement;
		END LOOP;
	END IF;
END
$$;

-- Gives a new table of chunks the settings of the old one, while it is empty, and to nobody but its owner.
CREATE FUNCTION distilface.prepare_chunk_table(old distilface.pipeline, shadow distilface.pipeline) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	a record;
	b record;
	statement text;
BEGIN
	SELECT c.*, n.nspname, s.spcname INTO a FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace WHERE c.oid = old.chunk_table;
	SELECT c.*, n.nspname INTO b FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = shadow.chunk_table;
	-- Default privileges may have granted more than is granted on the old one.
	FOR statement IN SELECT DISTINCT format('REVOKE ALL ON %s FROM %s', shadow.chunk_table, coalesce(quote_ident(r.rolname), 'PUBLIC'))
		FROM aclexplode(b.relacl) g LEFT JOIN pg_roles r ON r.oid = g.grantee WHERE g.grantee <> b.relowner LOOP
		EXECUTE statement;
	END LOOP;
	IF a.nspname <> b.nspname THEN
		EXECUTE format('ALTER TABLE %s SET SCHEMA %I', shadow.chunk_table, a.nspname);
	END IF;
	-- A key's columns may have been renamed, in either table.
	FOR statement IN SELECT format('ALTER TABLE %s RENAME COLUMN %I TO %I', shadow.chunk_table, n.attname, o.attname)
		FROM pg_attribute o JOIN pg_attribute n ON n.attrelid = shadow.chunk_table AND n.attnum = o.attnum
		WHERE o.attrelid = old.chunk_table AND o.attnum BETWEEN 1 AND cardinality(old.keys) AND o.attname <> n.attname LOOP
		EXECUTE statement;
	END LOOP;
	IF a.relpersistence = 'u' AND b.relpersistence = 'p' THEN
		EXECUTE format('ALTER TABLE %s SET UNLOGGED', shadow.chunk_table);
	END IF;
	IF a.reltablespace <> b.reltablespace THEN
		EXECUTE format('ALTER TABLE %s SET TABLESPACE %I', shadow.chunk_table, coalesce(a.spcname,
			(SELECT s.spcname FROM pg_database d JOIN pg_tablespace s ON s.oid = d.dattablespace WHERE d.datname = current_database())));
	END IF;
	FOR statement IN SELECT format('ALTER TABLE %s SET (%s%I = %L)', shadow.chunk_table, s.prefix, o.option_name, o.option_value)
		FROM (VALUES (a.reloptions, ''), ((SELECT t.reloptions FROM pg_class t WHERE t.oid = a.reltoastrelid), 'toast.')) s(options, prefix)
		CROSS JOIN LATERAL pg_options_to_table(s.options) o LOOP
		EXECUTE statement;
	END LOOP;
	PERFORM distilface.copy_column(old.chunk_table, o.attname, shadow.chunk_table, o.attname, false)
		FROM pg_attribute o JOIN pg_attribute n ON n.attrelid = shadow.chunk_table AND n.attname = o.attname
		WHERE o.attrelid = old.chunk_table AND o.attnum > 0 AND NOT o.attisdropped;
END
$$;

-- Puts the successor in the place of the pipeline, with all that hangs on the old vectors.
CREATE FUNCTION distilface.exchange(old distilface.pipeline, shadow distilface.pipeline) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	name CONSTANT text := old.chunk_table::text;
	-- What can be said only when the old names are free.
	later text[] := '{}';
	twins regclass[] := '{}';
	pair record;
	statement text;
BEGIN
	FOR pair IN SELECT o AS old, n AS new, c.relname, i.indisclustered, i.indisreplident, x.relname AS new_name, j.indrelid::regclass AS on_table
		FROM distilface.twins(old, shadow) t CROSS JOIN LATERAL distilface.tree(t.index) o CROSS JOIN LATERAL distilface.tree(t.twin) n
		JOIN pg_index i ON i.indexrelid = o JOIN pg_class c ON c.oid = o
		JOIN pg_index j ON j.indexrelid = n JOIN pg_class x ON x.oid = n
		WHERE i.indrelid = j.indrelid OR old.chunk_table IS NOT NULL LOOP
		EXECUTE format('COMMENT ON INDEX %s IS %L', pair.new, obj_description(pair.old, 'pg_class'));
		FOR statement IN SELECT format('ALTER INDEX %s ALTER COLUMN %s SET STATISTICS %s', pair.new, a.attnum, a.attstattarget)
			FROM pg_attribute a WHERE a.attrelid = pair.old AND a.attstattarget >= 0 LOOP
			EXECUTE statement;
		END LOOP;
		IF pair.indisclustered THEN
			EXECUTE format('ALTER TABLE %s CLUSTER ON %I', pair.on_table, pair.new_name);
		END IF;
		IF pair.indisreplident THEN
			EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', pair.on_table, pair.new_name);
		END IF;
		later := later || format('ALTER INDEX %s RENAME TO %I', pair.new, pair.relname);
		twins := twins || pair.new;
	END LOOP;
	-- The index that the successor built for itself, where the old vectors were not yet indexed.
	later := later || ARRAY(SELECT format('ALTER INDEX %s RENAME TO %I', n, own.name)
		FROM distilface.indexes_over(shadow) x CROSS JOIN LATERAL distilface.tree(x) n
		JOIN pg_index i ON i.indexrelid = n JOIN pg_class c ON c.oid = i.indrelid
		CROSS JOIN LATERAL (SELECT (coalesce(CASE WHEN old.chunk_table IS NOT NULL THEN old.name END, c.relname) || '_' || old.target || '_idx')::name AS name) own
		WHERE shadow.made_index AND NOT x = ANY (twins)
		AND NOT EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = c.relnamespace AND t.relname = own.name));
	IF old.chunk_table IS NULL THEN
		PERFORM distilface.copy_column(t, old.target, t, shadow.target, true) FROM distilface.tree(old.relation) t;
	ELSE
		PERFORM distilface.copy_column(old.chunk_table, a.attname, shadow.chunk_table, a.attname, true)
			FROM pg_attribute a WHERE a.attrelid = old.chunk_table AND a.attnum > 0 AND NOT a.attisdropped;
		later := later || distilface.table_statements(old.chunk_table, shadow.chunk_table);
	END IF;
	-- Before the old triggers go: with them distilface.on_drop forgets what they belonged to.
	PERFORM distilface.as_keeper(old.relation, 'keeper_replace', jsonb_build_object('pipeline', shadow.id));
	PERFORM distilface.drop_triggers(old.id, old.relation);
	IF old.chunk_table IS NULL THEN
		EXECUTE format('ALTER TABLE %s DROP COLUMN %I', old.relation, old.target);
		EXECUTE format('ALTER TABLE %s RENAME COLUMN %I TO %I', old.relation, shadow.target, old.target);
	ELSE
		EXECUTE format('DROP TABLE %s', name);
		EXECUTE format('ALTER TABLE %s RENAME TO %I', shadow.chunk_table, old.name);
	END IF;
	FOREACH statement IN ARRAY later LOOP
		EXECUTE statement;
	END LOOP;
END
$$;

-- What makes one table the other, once it has its name: names of constraints, grants, policies.
CREATE FUNCTION distilface.table_statements(old regclass, new regclass) RETURNS text[]
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT array_agg(s.statement ORDER BY s.part) FROM (
		SELECT 1 AS part, format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', old, n.conname, o.conname) AS statement
			FROM pg_constraint o JOIN pg_constraint n ON n.conrelid = new AND n.contype = o.contype AND n.conkey = o.conkey AND n.conparentid = 0
			WHERE o.conrelid = old AND o.conparentid = 0 AND o.conname <> n.conname
		UNION ALL
		SELECT 2, format('COMMENT ON CONSTRAINT %I ON %s IS %L', o.conname, old, obj_description(o.oid, 'pg_constraint'))
			FROM pg_constraint o WHERE o.conrelid = old AND obj_description(o.oid, 'pg_constraint') IS NOT NULL
		UNION ALL
		SELECT 2, format('COMMENT ON TABLE %s IS %L', old, obj_description(old, 'pg_class'))
		UNION ALL
		SELECT 2, format('ALTER TABLE %s REPLICA IDENTITY %s', old, CASE c.relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END)
			FROM pg_class c WHERE c.oid = old AND c.relreplident IN ('f', 'n')
		UNION ALL
		SELECT 2, format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', old) FROM pg_class c WHERE c.oid = old AND c.relrowsecurity
		UNION ALL
		SELECT 2, format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', old) FROM pg_class c WHERE c.oid = old AND c.relforcerowsecurity
		UNION ALL
		SELECT 3, format('CREATE POLICY %I ON %s AS %s FOR %s TO %s%s%s', p.polname, old,
				CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
				CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
				(SELECT string_agg(CASE WHEN u.role = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END, ', ')
					FROM unnest(p.polroles) u(role) LEFT JOIN pg_roles r ON r.oid = u.role),
				' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')
			FROM pg_policy p WHERE p.polrelid = old
		UNION ALL
		SELECT 4, format('COMMENT ON POLICY %I ON %s IS %L', p.polname, old, obj_description(p.oid, 'pg_policy'))
			FROM pg_policy p WHERE p.polrelid = old AND obj_description(p.oid, 'pg_policy') IS NOT NULL
		UNION ALL
		SELECT 5, format('REVOKE ALL ON %s FROM %I', old, r.rolname)
			FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = old
		UNION ALL
		SELECT 6, format('GRANT %s ON %s TO %s%s', g.privilege_type, old, coalesce(quote_ident(r.rolname), 'PUBLIC'),
				CASE WHEN g.is_grantable AND g.grantee <> c.relowner THEN ' WITH GRANT OPTION' ELSE '' END)
			FROM pg_class c CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g
			LEFT JOIN pg_roles r ON r.oid = g.grantee WHERE c.oid = old AND (g.grantee = 0 OR r.oid IS NOT NULL)) s
$$;

-- Prepares the successor of a pipeline, or finds it: the same with another model, beside it, with indexes
-- while it is empty. Nothing where the lock was not to be had at once.
CREATE FUNCTION distilface.owner_shadow(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET lock_timeout = '1s'
AS $$
DECLARE
	old distilface.pipeline;
	shadow distilface.pipeline;
	names text[];
	made jsonb;
BEGIN
	-- All at once what comes to it in the end: who asks for more later can deadlock.
	EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', owner_shadow.target);
	SELECT array_agg(d.name) INTO names FROM distilface.describe(owner_shadow.target) d
		WHERE d.replaces IS NULL AND ((args ->> 'target') IS NULL OR (args ->> 'target') = d.name);
	IF names IS NULL THEN
		RAISE EXCEPTION 'table % is not vectorized%', owner_shadow.target, coalesce(format(' into "%s"', args ->> 'target'), '')
			USING ERRCODE = 'undefined_object', HINT = 'CALL distilface_vectorize(...) first. See distilface.pipelines.';
	ELSIF cardinality(names) > 1 THEN
		RAISE EXCEPTION 'table % has % pipelines', owner_shadow.target, cardinality(names) USING ERRCODE = 'ambiguous_parameter',
			HINT = format('Say target => ''...'', one of %s.', array_to_string(names, ', '));
	END IF;
	SELECT d.* INTO old FROM distilface.describe(owner_shadow.target) d WHERE d.replaces IS NULL AND d.name = names[1];
	IF old.form = 'generated' THEN
		RAISE EXCEPTION 'a generated column cannot be filled beside another' USING ERRCODE = 'feature_not_supported',
			HINT = 'distilface_unvectorize it and CALL distilface_vectorize with the new model.';
	END IF;
	SELECT d.* INTO shadow FROM distilface.describe(owner_shadow.target) d WHERE d.replaces = old.id;
	IF shadow.id IS NULL AND old.model = args ->> 'model' AND old.id > (args ->> 'newest')::integer THEN
		-- Another session made the move while this one waited.
		RETURN jsonb_build_object('pipeline', old.id);
	ELSIF shadow.id IS NULL THEN
		-- A name that no column, relation or pipeline of the user's has.
		names := CASE WHEN old.chunk_table IS NULL
			THEN ARRAY(SELECT a.attname::text FROM distilface.tree(old.relation) t JOIN pg_attribute a ON a.attrelid = t)
			ELSE distilface.relations_in(old.relation) || distilface.relations_in(old.chunk_table) END
			|| ARRAY(SELECT d.name FROM distilface.describe(owner_shadow.target) d);
		made := distilface.owner_install(owner_shadow.target, jsonb_build_object('source', old.source, 'form', old.form,
			'target', distilface.free_name(old.name, names), 'model', args ->> 'model', 'chunk_tokens', old.chunk_tokens,
			'chunk_overlap', old.chunk_overlap, 'build_index', CASE WHEN old.filled THEN 'none' ELSE old.build_index END,
			'index_options', old.index_options, 'replaces', old.id));
		SELECT d.* INTO shadow FROM distilface.describe(owner_shadow.target) d WHERE d.id = (made ->> 'pipeline')::integer;
		IF old.chunk_table IS NULL THEN
			PERFORM distilface.copy_column(t, old.target, t, shadow.target, false) FROM distilface.tree(old.relation) t;
		ELSE
			PERFORM distilface.prepare_chunk_table(old, shadow);
		END IF;
	ELSIF shadow.model <> args ->> 'model' THEN
		RAISE EXCEPTION '% is on its way to model "%" already', owner_shadow.target, shadow.model
			USING ERRCODE = 'object_in_use', HINT = 'SELECT distilface_revectorize_abort(...) gives that up.';
	END IF;
	PERFORM distilface.require_movable(old, shadow);
	-- Indexes that came later are made before the exchange, while others read the table.
	IF made IS NOT NULL THEN
		PERFORM distilface.make_twins(old, shadow);
	END IF;
	BEGIN
		PERFORM distilface.exchange(old, shadow);
		RAISE EXCEPTION USING ERRCODE = 'DF001', MESSAGE = 'the exchange is rehearsed';
	EXCEPTION WHEN SQLSTATE 'DF001' THEN
		NULL;
	END;
	RETURN jsonb_build_object('pipeline', shadow.id);
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
	RETURN '{}';
END
$$;

-- Makes the twins of indexes that came while the successor was filled; readers of the table go on.
CREATE FUNCTION distilface.owner_twins(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET lock_timeout = '1s'
AS $$
BEGIN
	EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', owner_twins.target);
	PERFORM distilface.make_twins(o, s) FROM distilface.describe(owner_twins.target) s
		JOIN distilface.describe(owner_twins.target) o ON o.id = s.replaces WHERE s.id = (args ->> 'pipeline')::integer;
	RETURN '{}';
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
	RETURN '{}';
END
$$;

-- The exchange, under a lock that nobody else's transaction waits long for. False where the lock was not
-- to be had, or rows or indexes came in between.
CREATE FUNCTION distilface.owner_swap(target regclass, args jsonb) RETURNS jsonb
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
	SET lock_timeout = '1s'
AS $$
DECLARE
	shadow distilface.pipeline;
	old distilface.pipeline;
	failed bigint;
BEGIN
	BEGIN
		EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', owner_swap.target);
		SELECT d.* INTO shadow FROM distilface.describe(owner_swap.target) d WHERE d.id = (args ->> 'pipeline')::integer;
		SELECT d.* INTO old FROM distilface.describe(owner_swap.target) d WHERE d.id = shadow.replaces;
		IF old.chunk_table IS NOT NULL THEN
			EXECUTE format('LOCK TABLE %s, %s IN ACCESS EXCLUSIVE MODE', old.chunk_table, shadow.chunk_table);
		END IF;
	EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
		RETURN '{"swapped": false}';
	END;
	IF shadow.id IS NOT NULL AND shadow.replaces IS NULL THEN
		-- Another session was here first.
		RETURN '{"swapped": true}';
	ELSIF shadow.id IS NULL OR old.id IS NULL THEN
		RAISE EXCEPTION 'the move of table % to another model was ended meanwhile', owner_swap.target
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'What was being filled, or what it was to replace, is gone.',
			HINT = 'SELECT distilface_revectorize_abort(...) removes what is left of it. CALL distilface_revectorize again to begin anew.';
	END IF;
	IF EXISTS (SELECT FROM distilface.queue q WHERE q.pipeline = shadow.id) OR NOT shadow.filled
			OR distilface.has_new_leaf(shadow.id, shadow.relation) THEN
		RETURN '{"swapped": false}';
	END IF;
	SELECT count(*) INTO failed FROM distilface.failed_rows f WHERE f.pipeline = shadow.id
		AND NOT EXISTS (SELECT FROM distilface.failed_rows o WHERE o.pipeline = old.id AND o.relation = f.relation AND o.key = f.key);
	IF failed > 0 THEN
		RAISE EXCEPTION '% rows could not be embedded by model "%"', failed, shadow.model
			USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'The table goes on with its old vectors.',
			HINT = 'See distilface.failures. SELECT distilface_retry(...) and call again, or distilface_revectorize_abort(...).';
	END IF;
	PERFORM distilface.require_movable(old, shadow);
	IF EXISTS (SELECT FROM distilface.twins(old, shadow) t WHERE t.twin IS NULL) THEN
		RETURN '{"swapped": false}';
	END IF;
	PERFORM distilface.exchange(old, shadow);
	RETURN '{"swapped": true}';
END
$$;

-- The successor's number; newest is that of the newest pipeline when the move was asked for.
CREATE FUNCTION distilface.shadow(target regclass, model text, into_target text, newest integer DEFAULT NULL) RETURNS integer
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	PERFORM distilface.wake_worker();
	RETURN (distilface.as_owner(target, 'owner_shadow', jsonb_build_object('model', model, 'target', into_target,
		'newest', newest)) ->> 'pipeline')::integer;
END
$$;

CREATE FUNCTION distilface.swap(target regclass, pipeline integer) RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	RETURN (distilface.as_owner(target, 'owner_swap', jsonb_build_object('pipeline', pipeline)) ->> 'swapped')::boolean;
END
$$;

CREATE FUNCTION distilface.require_move("table" regclass, model text, judgments regclass, k integer) RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
	PERFORM distilface.require('"table"', "table"::text, 'Name a table.'),
		distilface.require('model', model, 'Name one of distilface.models.');
	IF judgments IS NOT NULL THEN
		PERFORM distilface.judged(judgments, k);
	END IF;
END
$$;

CREATE PROCEDURE distilface_revectorize("table" regclass, model text, target text DEFAULT NULL,
	judgments regclass DEFAULT NULL, k integer DEFAULT 10,
	INOUT ndcg_before double precision DEFAULT NULL, INOUT ndcg_after double precision DEFAULT NULL)
	LANGUAGE plpgsql
AS $$
DECLARE
	pipeline integer;
	old integer;
	newest integer;
	done boolean;
	more boolean;
	ended boolean;
	look boolean := true;
	wait double precision;
BEGIN
	PERFORM distilface.require_no_block('distilface_revectorize');
	PERFORM distilface.require_move("table", model, judgments, k);
	newest := distilface.newest();
	COMMIT;
	LOOP
		pipeline := distilface.shadow("table", model, target, newest);
		COMMIT;
		EXIT WHEN pipeline IS NOT NULL;
		PERFORM pg_catalog.pg_sleep(0.5);
	END LOOP;
	old := distilface.replaced(pipeline);
	COMMIT;
	LOOP
		SELECT s.filled, s.again, s.pause, s.gone INTO done, more, wait, ended FROM distilface.step(pipeline, look) s;
		COMMIT;
		look := false;
		PERFORM distilface.require_success(NULL, ended);
		IF done AND NOT more THEN
			IF judgments IS NOT NULL AND ndcg_after IS NULL THEN
				ndcg_before := distilface.ndcg(old, judgments, k);
				ndcg_after := distilface.ndcg(pipeline, judgments, k);
			END IF;
			PERFORM distilface.as_owner("table", 'owner_twins', pg_catalog.jsonb_build_object('pipeline', pipeline));
			COMMIT;
			done := distilface.swap("table", pipeline);
			COMMIT;
			EXIT WHEN done;
			wait := 0.5;
		END IF;
		PERFORM pg_catalog.pg_sleep(wait);
	END LOOP;
END
$$;
COMMENT ON PROCEDURE distilface_revectorize(regclass, text, text, regclass, integer, double precision, double precision)
	IS 'moves a table to another model while it is in use; calling it again resumes';

CREATE FUNCTION distilface.newest() RETURNS integer LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$ SELECT coalesce(max(p.id), 0) FROM distilface.pipelines p $$;

CREATE FUNCTION distilface.replaced(pipeline integer) RETURNS integer LANGUAGE sql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$ SELECT p.replaces FROM distilface.pipelines p WHERE p.id = pipeline $$;

CREATE FUNCTION distilface_revectorize_abort("table" regclass) RETURNS integer
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	pipeline integer;
	ended integer := 0;
BEGIN
	FOR pipeline IN SELECT d.id FROM distilface.describe("table") d WHERE d.replaces IS NOT NULL LOOP
		PERFORM distilface.as_owner("table", 'owner_uninstall', jsonb_build_object('pipeline', pipeline, 'keep_data', false));
		ended := ended + 1;
	END LOOP;
	RETURN ended;
END
$$;
COMMENT ON FUNCTION distilface_revectorize_abort(regclass) IS 'gives up an unfinished distilface_revectorize; the old vectors stay';
