-- Models as database objects: the tables that hold them, and the functions that change them. The
-- tables are dumped with the database; what users see is the view distilface.models.

-- A name is bound to its revision for ever. A dropped model leaves its name behind, without sha256.
CREATE TABLE distilface.model (
	name text COLLATE "C" PRIMARY KEY,
	revision text COLLATE "C" NOT NULL,
	sha256 text COLLATE "C",
	builtin boolean NOT NULL,
	bytes bigint NOT NULL,
	source text,
	loaded_at timestamptz NOT NULL DEFAULT now(),
	manifest jsonb NOT NULL
);
CREATE INDEX model_revision_idx ON distilface.model (revision);
COMMENT ON TABLE distilface.model IS 'loaded models and the built-in ones that something depends on';

-- The packed block of that sha256, in parts of 1 MB: numbers, which do not compress.
CREATE TABLE distilface.model_part (
	sha256 text COLLATE "C",
	part integer,
	content bytea NOT NULL,
	PRIMARY KEY (sha256, part)
);
ALTER TABLE distilface.model_part ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TABLE distilface.model_alias (
	alias text COLLATE "C" PRIMARY KEY,
	name text COLLATE "C" NOT NULL
);

-- These tables have no foreign keys: pg_restore with several jobs loads an extension's tables in any
-- order, with its constraints in place. Names are never deleted, so that nothing is left dangling.

-- Role 0 is every role. Of a table of its own, so that a dump restored where a role is missing
-- loses this role's rights and no model.
CREATE TABLE distilface.model_role (
	name text COLLATE "C",
	role regrole,
	owns boolean NOT NULL,
	PRIMARY KEY (name, role)
);

SELECT pg_catalog.pg_extension_config_dump('distilface.model', '');
SELECT pg_catalog.pg_extension_config_dump('distilface.model_part', '');
SELECT pg_catalog.pg_extension_config_dump('distilface.model_alias', '');
-- The number of a role that is gone may be another role's where it is restored.
SELECT pg_catalog.pg_extension_config_dump('distilface.model_role',
	'WHERE role::oid = 0::oid OR role::oid IN (SELECT r.oid FROM pg_catalog.pg_roles r)');

-- DROP ROLE tells nobody: whoever writes rights takes those of roles that are gone away.
CREATE FUNCTION distilface.forget_roles() RETURNS trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM distilface.model_role m
		WHERE m.role::oid <> 0::oid AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = m.role);
	RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.forget_roles FROM PUBLIC;
CREATE TRIGGER forget_roles BEFORE INSERT ON distilface.model_role
	FOR EACH STATEMENT EXECUTE FUNCTION distilface.forget_roles();

-- Backends remember what a name stands for until somebody writes these tables, by whatever means.
CREATE FUNCTION distilface.models_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'distilface_models_changed_wrapper' LANGUAGE C;
REVOKE EXECUTE ON FUNCTION distilface.models_changed() FROM PUBLIC;
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON distilface.model
	FOR EACH STATEMENT EXECUTE FUNCTION distilface.models_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON distilface.model_alias
	FOR EACH STATEMENT EXECUTE FUNCTION distilface.models_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON distilface.model_role
	FOR EACH STATEMENT EXECUTE FUNCTION distilface.models_changed();

-- Functions that look into catalogs have jit off: their estimates are far above their work, and
-- compiling took hundreds of times as long.

-- What a model is used by: the C functions cannot be asked what they were called with, so an object
-- uses a model when it depends on one of our functions with an argument "model" and its definition
-- names the model as a literal. A text index tells its model itself. With `changed`, of these objects
-- and what belongs to them only.
CREATE FUNCTION distilface.model_calls(
	changed oid[] DEFAULT NULL, OUT classid oid, OUT objid oid, OUT objsubid integer, OUT definition text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH takes_model AS (
		SELECT p.oid FROM pg_proc p
			JOIN pg_depend e ON e.classid = 'pg_proc'::regclass AND e.objid = p.oid
				AND e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e'
			JOIN pg_extension x ON x.oid = e.refobjid AND x.extname = 'distilface'
			WHERE 'model' = ANY (p.proargnames)
	), users AS (
		SELECT DISTINCT d.classid, d.objid, d.objsubid FROM pg_depend d
			WHERE d.refclassid = 'pg_proc'::regclass
			AND d.refobjid IN (SELECT t.oid FROM takes_model t)
			AND d.deptype IN ('n', 'a')
			-- The object itself, or what it belongs to.
			AND (changed IS NULL OR d.objid = ANY (changed) OR CASE d.classid
				WHEN 'pg_attrdef'::regclass THEN (SELECT a.adrelid FROM pg_attrdef a WHERE a.oid = d.objid)
				WHEN 'pg_constraint'::regclass THEN
					(SELECT greatest(c.conrelid, c.contypid) FROM pg_constraint c WHERE c.oid = d.objid)
				WHEN 'pg_rewrite'::regclass THEN (SELECT r.ev_class FROM pg_rewrite r WHERE r.oid = d.objid)
				WHEN 'pg_trigger'::regclass THEN (SELECT t.tgrelid FROM pg_trigger t WHERE t.oid = d.objid)
				WHEN 'pg_policy'::regclass THEN (SELECT p.polrelid FROM pg_policy p WHERE p.oid = d.objid)
			END = ANY (changed))
	)
	SELECT u.classid, u.objid, u.objsubid,
		CASE u.classid
			WHEN 'pg_class'::regclass THEN CASE u.objsubid
				WHEN 0 THEN (SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indexrelid = u.objid)
				ELSE (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
					WHERE d.adrelid = u.objid AND d.adnum = u.objsubid) END
			WHEN 'pg_attrdef'::regclass THEN
				(SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.oid = u.objid)
			WHEN 'pg_constraint'::regclass THEN
				(SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c WHERE c.oid = u.objid)
			WHEN 'pg_rewrite'::regclass THEN
				(SELECT pg_get_ruledef(r.oid) FROM pg_rewrite r WHERE r.oid = u.objid)
			WHEN 'pg_trigger'::regclass THEN
				(SELECT pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.oid = u.objid)
			WHEN 'pg_proc'::regclass THEN
				(SELECT pg_get_functiondef(p.oid) FROM pg_proc p WHERE p.oid = u.objid AND p.prokind <> 'a')
			WHEN 'pg_policy'::regclass THEN
				(SELECT concat_ws(' ', pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
					FROM pg_policy p WHERE p.oid = u.objid)
			WHEN 'pg_statistic_ext'::regclass THEN pg_get_statisticsobjdef(u.objid)
		END
		FROM users u
$$;
REVOKE EXECUTE ON FUNCTION distilface.model_calls FROM PUBLIC;

-- pg_dump restores a stored generated column by computing it, and checks CHECK constraints of tables and
-- domains, before it has restored our tables: all may name built-in models only. relation is a domain's
-- oid where the constraint is a domain's.
CREATE FUNCTION distilface.stored_calls(
	OUT relation oid, OUT what text, OUT definition text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	SELECT a.attrelid, format('generated column "%s" of table %s', a.attname, a.attrelid::regclass), c.definition
		FROM distilface.model_calls() c
		LEFT JOIN pg_attrdef d ON c.classid = 'pg_attrdef'::regclass AND d.oid = c.objid
		JOIN pg_attribute a ON (a.attrelid, a.attnum::integer) IN
			((d.adrelid, d.adnum::integer), (CASE WHEN c.classid = 'pg_class'::regclass THEN c.objid END, c.objsubid))
			AND a.attgenerated <> ''
	UNION
	SELECT k.conrelid, format('constraint "%s" of table %s', k.conname, k.conrelid::regclass), c.definition
		FROM distilface.model_calls() c
		JOIN pg_constraint k ON c.classid = 'pg_constraint'::regclass AND k.oid = c.objid
			AND k.contype = 'c' AND k.conrelid <> 0
	UNION
	SELECT k.contypid, format('constraint "%s" of domain %s', k.conname, format_type(k.contypid, NULL)), c.definition
		FROM distilface.model_calls() c
		JOIN pg_constraint k ON c.classid = 'pg_constraint'::regclass AND k.oid = c.objid
			AND k.contype = 'c' AND k.contypid <> 0
$$;
REVOKE EXECUTE ON FUNCTION distilface.stored_calls FROM PUBLIC;

CREATE FUNCTION distilface.check_stored_calls() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	changed oid[];
	call record;
	loaded text;
BEGIN
	SELECT array_agg(DISTINCT c.objid) INTO changed FROM pg_event_trigger_ddl_commands() c
		WHERE c.classid = 'pg_class'::regclass
		AND (EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.objid AND a.attgenerated <> '')
			OR EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.objid AND k.contype = 'c'))
		OR c.classid = 'pg_type'::regclass
		AND EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = c.objid AND k.contype = 'c');
	-- Most tables end here, before the library is loaded.
	IF changed IS NULL THEN
		RETURN;
	END IF;
	FOR call IN SELECT s.what, s.definition FROM distilface.stored_calls() s WHERE s.relation = ANY (changed) LOOP
		SELECT m.name INTO loaded FROM distilface.model m
			WHERE NOT m.builtin AND position(quote_literal(m.name) IN call.definition) > 0 LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION '% cannot use the loaded model "%"', call.what, loaded
				USING ERRCODE = 'feature_not_supported',
				DETAIL = 'A dump is restored with the table before the loaded models are.',
				HINT = 'Name a built-in model, or keep the vector in a plain column that a trigger fills.';
		END IF;
		PERFORM FROM distilface.library_models() l WHERE position(quote_literal(l.name) IN call.definition) > 0;
		IF NOT FOUND THEN
			PERFORM FROM distilface.model m
				WHERE m.builtin AND position(quote_literal(m.name) IN call.definition) > 0;
		END IF;
		IF NOT FOUND THEN
			RAISE EXCEPTION '% names no built-in model', call.what
				USING ERRCODE = 'undefined_object',
				DETAIL = 'A dump is restored with the table before the loaded models are.',
				HINT = 'Name one of distilface.models WHERE builtin, as a literal.';
		END IF;
	END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.check_stored_calls FROM PUBLIC;
CREATE EVENT TRIGGER distilface_check_stored_calls ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE SCHEMA',
		'CREATE DOMAIN', 'ALTER DOMAIN')
	EXECUTE FUNCTION distilface.check_stored_calls();

-- Whoever makes an object that names a model holds the model's row, as a pipeline and a text index do,
-- so that a drop waits until the object can be seen. CREATE INDEX CONCURRENTLY commits its index before
-- it comes here, see below.
CREATE FUNCTION distilface.hold_models() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	changed CONSTANT oid[] := ARRAY(SELECT DISTINCT c.objid FROM pg_event_trigger_ddl_commands() c);
	call record;
	held record;
BEGIN
	FOR call IN SELECT c.definition FROM distilface.model_calls(changed) c LOOP
		FOR held IN SELECT m.name, m.revision, m.sha256 FROM distilface.model m
				WHERE position(quote_literal(m.name) IN call.definition) > 0 FOR KEY SHARE LOOP
			IF held.sha256 IS NULL AND NOT EXISTS (
					SELECT FROM distilface.library_models() l WHERE l.revision = held.revision) THEN
				RAISE EXCEPTION 'model "%" does not exist', held.name USING ERRCODE = 'undefined_object',
					DETAIL = 'It was dropped.',
					HINT = 'See distilface.models for the loaded ones.';
			END IF;
		END LOOP;
	END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.hold_models FROM PUBLIC;
CREATE EVENT TRIGGER distilface_hold_models ON ddl_command_end
	WHEN TAG IN ('CREATE INDEX', 'CREATE VIEW', 'CREATE MATERIALIZED VIEW', 'CREATE TABLE', 'ALTER TABLE',
		'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE', 'CREATE SCHEMA', 'CREATE RULE', 'CREATE TRIGGER',
		'CREATE POLICY', 'ALTER POLICY', 'CREATE STATISTICS', 'CREATE DOMAIN', 'ALTER DOMAIN',
		'CREATE FUNCTION', 'CREATE PROCEDURE')
	EXECUTE FUNCTION distilface.hold_models();

-- CREATE INDEX CONCURRENTLY holds the models before it begins, until the commit that lets its index be
-- seen. What it will name is not parsed yet, so it holds all of them, for a moment, and refuses what
-- stands between the parentheses of a call. It is always a client's own statement, which current_query()
-- gives, or NULL where another background process runs it.
CREATE FUNCTION distilface.hold_models_first() RETURNS event_trigger
	LANGUAGE plpgsql SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
	statement CONSTANT text := current_query();
	in_call CONSTANT text := '\mdistilface_\w+\s*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*';
	held record;
BEGIN
	IF statement !~* 'concurrently' OR statement !~* 'distilface_' THEN
		RETURN;
	END IF;
	FOR held IN SELECT m.name, m.revision, m.sha256 FROM distilface.model m FOR KEY SHARE LOOP
		IF held.sha256 IS NULL AND statement ~* (in_call || replace(quote_literal(held.name), '.', '\.'))
				AND NOT EXISTS (SELECT FROM distilface.library_models() l WHERE l.revision = held.revision) THEN
			RAISE EXCEPTION 'model "%" does not exist', held.name USING ERRCODE = 'undefined_object',
				DETAIL = 'It was dropped.',
				HINT = 'See distilface.models for the loaded ones.';
		END IF;
	END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.hold_models_first FROM PUBLIC;
CREATE EVENT TRIGGER distilface_hold_models_first ON ddl_command_start
	WHEN TAG IN ('CREATE INDEX')
	EXECUTE FUNCTION distilface.hold_models_first();

-- What runs with the rights of the tables' owner, called by the C functions below once they have
-- asked what the user may do.

-- Puts a model's row in place. The result is the sha256 of the block that the model has from now on,
-- and whether its parts are still to be stored; none where the model was there already.
CREATE FUNCTION distilface.put_model(
	new_name text, new_revision text, new_sha256 text, new_builtin boolean, new_bytes bigint,
	new_source text, new_manifest jsonb, new_owner oid, must_be_same boolean)
	RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	known distilface.model;
	stored text;
	column_of text;
BEGIN
	LOCK TABLE distilface.model IN SHARE ROW EXCLUSIVE MODE;
	SELECT * INTO known FROM distilface.model m WHERE m.name = new_name;
	IF known.revision <> new_revision THEN
		RAISE EXCEPTION 'model name "%" is bound to another revision', new_name
			USING ERRCODE = 'duplicate_object',
			DETAIL = format('It is bound to %s for ever; this model is %s.', known.revision, new_revision),
			HINT = 'Load the model under a new name, one that carries its version.';
	END IF;
	IF known.sha256 IS NOT NULL THEN
		IF must_be_same AND known.sha256 <> new_sha256 THEN
			stored := known.sha256;
		ELSE
			RETURN 'known';
		END IF;
	ELSE
		SELECT m.sha256 INTO stored FROM distilface.model m
			WHERE m.revision = new_revision AND m.sha256 IS NOT NULL LIMIT 1;
	END IF;
	-- The revision of a packed block is what its maker says: two blocks must not share one.
	IF must_be_same AND stored <> new_sha256 THEN
		RAISE EXCEPTION 'another model of this revision is here already'
			USING ERRCODE = 'duplicate_object',
			DETAIL = format('Revision %s is block %s here; this block is %s.', new_revision, stored, new_sha256);
	END IF;
	IF NOT new_builtin THEN
		SELECT s.what INTO column_of FROM distilface.stored_calls() s
			WHERE position(quote_literal(new_name) IN s.definition) > 0 LIMIT 1;
		IF FOUND THEN
			RAISE EXCEPTION 'model "%" cannot be loaded: % names it', new_name, column_of
				USING ERRCODE = 'feature_not_supported',
				HINT = 'Generated columns and constraints take built-in models only: drop it, or load the model under another name.';
		END IF;
	END IF;
	INSERT INTO distilface.model (name, revision, sha256, builtin, bytes, source, manifest)
		VALUES (new_name, new_revision, coalesce(stored, new_sha256), new_builtin, new_bytes, new_source, new_manifest)
		ON CONFLICT (name) DO UPDATE SET
			sha256 = excluded.sha256, builtin = excluded.builtin, bytes = excluded.bytes,
			source = excluded.source, loaded_at = excluded.loaded_at, manifest = excluded.manifest;
	IF NOT new_builtin THEN
		DELETE FROM distilface.model_role WHERE name = new_name;
		INSERT INTO distilface.model_role VALUES (new_name, new_owner, true);
	END IF;
	RETURN CASE WHEN stored IS NULL THEN 'new' ELSE 'shared' END;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.put_model FROM PUBLIC;

CREATE FUNCTION distilface.index_revision(index oid, wait boolean) RETURNS text
	AS 'MODULE_PATHNAME', 'distilface_index_revision_wrapper'
	LANGUAGE C VOLATILE STRICT;
REVOKE EXECUTE ON FUNCTION distilface.index_revision FROM PUBLIC;

-- With `wait`, for a drop: waits for who rebuilds an index, and leaves out an index that any other name of
-- its revision serves as well. In PL/pgSQL, because the table of pipelines comes later.
CREATE FUNCTION distilface.model_uses(wait boolean, OUT name text, OUT used_by text)
	RETURNS SETOF record
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH text_index AS (
		SELECT i.indexrelid AS index, k.relkind,
				(SELECT substr(o, 7) FROM unnest(k.reloptions) o WHERE o LIKE 'model=_%') AS names
			FROM pg_index i
			JOIN pg_class k ON k.oid = i.indexrelid AND k.relkind IN ('i', 'I')
			JOIN pg_am a ON a.oid = k.relam AND a.amname = 'distilface_hnsw'
			JOIN pg_opclass o ON o.oid = i.indclass[0] AND o.opcintype = 'text'::regtype
	)
	SELECT m.name, CASE c.classid
			WHEN 'pg_class'::regclass THEN CASE c.objsubid
				WHEN 0 THEN 'index ' || c.objid::regclass
				ELSE (SELECT format('column %s.%I', a.attrelid::regclass, a.attname)
					FROM pg_attribute a WHERE a.attrelid = c.objid AND a.attnum = c.objsubid) END
			WHEN 'pg_attrdef'::regclass THEN
				(SELECT format('column %s.%I', a.attrelid::regclass, a.attname)
					FROM pg_attrdef d JOIN pg_attribute a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
					WHERE d.oid = c.objid)
			ELSE pg_describe_object(c.classid, c.objid, c.objsubid)
		END
		FROM distilface.model m
		JOIN distilface.model_calls() c ON position(quote_literal(m.name) IN c.definition) > 0
		WHERE m.sha256 IS NOT NULL
	UNION
	SELECT m.name, 'index ' || t.index::regclass
		FROM text_index t JOIN distilface.model m ON m.name = t.names AND m.sha256 IS NOT NULL
	UNION
	-- Also what another name stands behind, until it is filled again.
	SELECT m.name, 'index ' || t.index::regclass
		FROM text_index t
		JOIN distilface.model m ON m.sha256 IS NOT NULL AND m.revision = distilface.index_revision(t.index, wait)
		LEFT JOIN distilface.model n ON n.name = t.names
		WHERE t.relkind = 'i' AND n.revision IS DISTINCT FROM m.revision
		AND NOT (wait AND EXISTS (SELECT FROM distilface.model o
			WHERE o.revision = m.revision AND o.sha256 IS NOT NULL AND o.name <> m.name))
	UNION
	SELECT m.name, format('pipeline of table %s into %I', p.relation::regclass,
			coalesce((SELECT d.name FROM distilface.describe(p.relation) d WHERE d.id = p.id), '?'))
		FROM distilface.pipelines p
		JOIN pg_class k ON k.oid = p.relation
		JOIN distilface.model m ON m.name = p.model AND m.sha256 IS NOT NULL
	UNION
	SELECT m.name, 'alias ' || quote_literal(a.alias)
		FROM distilface.model_alias a JOIN distilface.model m ON m.name = a.name;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.model_uses FROM PUBLIC;

CREATE FUNCTION distilface.drop_model(old_name text) RETURNS text
	LANGUAGE plpgsql
AS $$
DECLARE
	uses text;
	old_sha256 text;
	referring record;
	rows bigint;
BEGIN
	-- An older snapshot would not show what was made while this waited.
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE EXCEPTION 'a model cannot be dropped in a transaction that is %', current_setting('transaction_isolation')
			USING ERRCODE = 'invalid_transaction_state',
			HINT = 'Drop it in a READ COMMITTED transaction.';
	END IF;
	-- Whoever makes what uses this model holds its row, or that of another name of its revision, until he
	-- commits.
	PERFORM FROM distilface.model m WHERE m.revision = (
			SELECT o.revision FROM distilface.model o WHERE o.name = old_name)
		ORDER BY m.name FOR UPDATE;
	SELECT m.sha256 INTO old_sha256 FROM distilface.model m WHERE m.name = old_name;
	PERFORM distilface.forget_gone();
	SELECT string_agg(u.used_by, ', ' ORDER BY u.used_by COLLATE "C") INTO uses
		FROM distilface.model_uses(true) u WHERE u.name = old_name;
	-- Other people's tables may refer to the name by a foreign key.
	FOR referring IN
		SELECT c.conrelid::regclass AS tab, a.attname AS col
			FROM pg_constraint c
			JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
			WHERE c.contype = 'f' AND c.confrelid = 'distilface.model'::regclass
	LOOP
		EXECUTE format('SELECT count(*) FROM %s WHERE %I = $1', referring.tab, referring.col)
			INTO rows USING old_name;
		IF rows > 0 THEN
			uses := concat_ws(', ', uses, format('%s rows of table %s', rows, referring.tab));
		END IF;
	END LOOP;
	IF uses IS NOT NULL THEN
		RAISE EXCEPTION 'cannot drop model "%" because other objects depend on it', old_name
			USING ERRCODE = 'dependent_objects_still_exist',
			DETAIL = format('It is used by %s.', uses),
			HINT = 'Drop these first, or move them to another model.';
	END IF;
	UPDATE distilface.model SET sha256 = NULL WHERE name = old_name;
	DELETE FROM distilface.model_role WHERE name = old_name;
	IF EXISTS (SELECT FROM distilface.model m WHERE m.sha256 = old_sha256) THEN
		RETURN NULL;
	END IF;
	DELETE FROM distilface.model_part p WHERE p.sha256 = old_sha256;
	RETURN old_sha256;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.drop_model FROM PUBLIC;

-- What users call.

CREATE FUNCTION distilface_model_load(name text, directory text) RETURNS text
	AS 'MODULE_PATHNAME', 'distilface_model_load_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_model_load IS 'loads a model from a directory of the server; returns its revision';

CREATE FUNCTION distilface_model_import(name text, packed oid) RETURNS text
	AS 'MODULE_PATHNAME', 'distilface_model_import_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_model_import IS 'loads a packed model from a large object; returns its revision';

CREATE FUNCTION distilface_model_alias(alias text, name text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_model_alias_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_model_alias IS 'makes ''default'' stand for a model';

CREATE FUNCTION distilface_model_drop(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_model_drop_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_model_drop IS 'drops a loaded model that nothing depends on';

CREATE FUNCTION distilface_model_grant(name text, role text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_model_grant_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_model_grant IS 'lets a role, or public, use a loaded model';

CREATE FUNCTION distilface_model_revoke(name text, role text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_model_revoke_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_model_revoke IS 'takes back what distilface_model_grant gave';

CREATE FUNCTION distilface_model_owner(name text, role text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_model_owner_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION distilface_model_owner IS 'gives a loaded model another owner';

-- Copies a built-in model into the tables, so that a later library takes nothing away; a loaded one is
-- there. Who makes an index or a pipeline calls it, which also keeps the model from being dropped
-- until he commits.
CREATE FUNCTION distilface.keep_model(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'distilface_keep_model_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION distilface.library_models(
	OUT name text, OUT revision text, OUT bytes bigint, OUT manifest text, OUT place integer)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'distilface_library_models_wrapper'
	LANGUAGE C STABLE STRICT PARALLEL SAFE ROWS 2;

-- Everybody sees which models there are, not their bytes.
CREATE FUNCTION distilface.all_models(
	OUT name text, OUT revision text, OUT sha256 text, OUT source text, OUT bytes bigint,
	OUT builtin boolean, OUT owner text, OUT is_default boolean, OUT used_by text[],
	OUT loaded_at timestamptz, OUT manifest jsonb)
	RETURNS SETOF record
	LANGUAGE sql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
	WITH listed AS (
		SELECT m.name, m.revision, m.sha256, m.source, m.bytes, m.builtin, m.loaded_at, m.manifest
			FROM distilface.model m WHERE m.sha256 IS NOT NULL
		UNION ALL
		SELECT l.name, l.revision, NULL, 'built-in', l.bytes, true, NULL, l.manifest::jsonb
			FROM distilface.library_models() l
			WHERE NOT EXISTS (SELECT FROM distilface.model m WHERE m.name = l.name AND m.sha256 IS NOT NULL)
	), uses AS (
		SELECT u.name, array_agg(u.used_by ORDER BY u.used_by COLLATE "C") AS used_by
			FROM distilface.model_uses(false) u GROUP BY u.name
	)
	SELECT l.name, l.revision, l.sha256, l.source, l.bytes, l.builtin,
		(SELECT u.rolname::text FROM distilface.model_role r JOIN pg_roles u ON u.oid = r.role
			WHERE r.name = l.name AND r.owns),
		l.name = coalesce((SELECT a.name FROM distilface.model_alias a WHERE a.alias = 'default'),
			(SELECT f.name FROM distilface.library_models() f WHERE f.place = 0)),
		coalesce(u.used_by, '{}'), l.loaded_at, l.manifest
		FROM listed l LEFT JOIN uses u ON u.name = l.name
$$;

CREATE VIEW distilface.models AS
	SELECT m.name, m.revision, m.manifest ->> 'architecture' AS architecture,
	       CASE WHEN m.manifest -> 'head' IS NULL THEN 'sentence encoder' ELSE 'cross-encoder' END AS kind,
	       (m.manifest ->> 'dimensions')::integer AS dimensions,
	       coalesce(m.manifest -> 'matryoshka_dims', '[]') AS matryoshka_dims,
	       (m.manifest ->> 'max_tokens')::integer AS max_tokens,
	       m.manifest ->> 'pooling' AS pooling,
	       coalesce(m.manifest #>> '{prompts,query}', '') AS query_prompt,
	       coalesce(m.manifest #>> '{prompts,passage}', '') AS passage_prompt,
	       m.source, m.bytes, m.is_default, m.builtin, m.owner, m.loaded_at, m.used_by
	  FROM distilface.all_models() m;
GRANT SELECT ON distilface.models TO PUBLIC;
COMMENT ON VIEW distilface.models IS 'the models that distilface_embed knows, and what uses them';
