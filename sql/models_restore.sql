-- Restores by several jobs, which build an index as soon as its table's rows are there: the rows of models
-- may come later, or meet rows that such a build has put there. See extension/src/model/restore.rs.

-- Indexes that are empty, not valid and not ready, because their model is not here yet; and indexes that
-- were filled by the built-in model before an alias could be restored.
CREATE TABLE distilface.unfilled (
	index oid PRIMARY KEY,
	filled boolean NOT NULL
);

CREATE FUNCTION distilface.note_unfilled(index oid, filled boolean) RETURNS void
	LANGUAGE plpgsql
AS $$
BEGIN
	INSERT INTO distilface.unfilled VALUES ($1, $2)
		ON CONFLICT ON CONSTRAINT unfilled_pkey DO UPDATE SET filled = excluded.filled;
	IF NOT filled THEN
		-- As CREATE INDEX CONCURRENTLY leaves an index that it could not fill.
		UPDATE pg_catalog.pg_index SET indisvalid = false, indisready = false WHERE indexrelid = $1;
	END IF;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.note_unfilled FROM PUBLIC;

-- Fills what can be filled now.
CREATE FUNCTION distilface.fill_indexes() RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	noted record;
	alias_revision CONSTANT text := (SELECT m.revision FROM distilface.model_alias a
		JOIN distilface.model m ON m.name = a.name WHERE a.alias = 'default');
	child oid;
BEGIN
	LOCK TABLE distilface.unfilled IN SHARE ROW EXCLUSIVE MODE;
	FOR noted IN SELECT u.index, u.filled, i.indisvalid,
				o.opcintype = 'text'::regtype AND NOT coalesce(k.reloptions::text LIKE '%model=_%', false) AS follows_default
			FROM distilface.unfilled u
			LEFT JOIN (pg_index i
				JOIN pg_opclass o ON o.oid = i.indclass[0]
				JOIN pg_class k ON k.oid = i.indexrelid AND k.relkind = 'i'
				JOIN pg_am a ON a.oid = k.relam AND a.amname = 'distilface_hnsw')
			ON i.indexrelid = u.index ORDER BY u.index LOOP
		-- It was dropped, or somebody has filled it.
		IF noted.indisvalid IS NULL OR noted.indisvalid AND NOT noted.filled THEN
			DELETE FROM distilface.unfilled u WHERE u.index = noted.index;
			CONTINUE;
		END IF;
		CONTINUE WHEN noted.filled AND (alias_revision IS NULL
			OR alias_revision = distilface.index_revision(noted.index, false));
		BEGIN
			EXECUTE format('REINDEX INDEX %s', noted.index::regclass);
			IF noted.follows_default AND alias_revision IS NULL THEN
				UPDATE distilface.unfilled u SET filled = true WHERE u.index = noted.index;
			ELSE
				DELETE FROM distilface.unfilled u WHERE u.index = noted.index;
			END IF;
		EXCEPTION
			-- Parts, rights or the whole model are still to come.
			WHEN undefined_object OR data_corrupted OR insufficient_privilege THEN
				CONTINUE;
			-- A model's restore does not fail for an index.
			WHEN OTHERS THEN
				RAISE WARNING 'index % could not be filled: %', noted.index::regclass, SQLERRM
					USING HINT = 'REINDEX it when the cause is gone.';
				CONTINUE;
		END;
		-- PostgreSQL looks at a partition's index when it is attached only.
		child := noted.index;
		LOOP
			UPDATE pg_index p SET indisvalid = true FROM pg_inherits h
				WHERE h.inhrelid = child AND p.indexrelid = h.inhparent AND NOT p.indisvalid
				AND NOT EXISTS (SELECT FROM pg_inherits t WHERE t.inhparent = p.indrelid AND NOT EXISTS (
					SELECT FROM pg_inherits o JOIN pg_index c ON c.indexrelid = o.inhrelid
						WHERE o.inhparent = p.indexrelid AND c.indrelid = t.inhrelid AND c.indisvalid))
				RETURNING p.indexrelid INTO child;
			EXIT WHEN NOT FOUND;
		END LOOP;
	END LOOP;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.fill_indexes FROM PUBLIC;

-- Whether this is a statement of a dump: what every dump sets at its beginning.
CREATE FUNCTION distilface.restoring() RETURNS boolean
	LANGUAGE sql STABLE
	RETURN pg_catalog.current_setting('search_path') = ''
		AND pg_catalog.current_setting('check_function_bodies') = 'off'
		AND pg_catalog.current_setting('row_security') = 'off';

-- One at a time, and none while an index is built: the lock is the first that a build takes.
CREATE FUNCTION distilface.restore_in_turn() RETURNS trigger
	LANGUAGE plpgsql
AS $$
BEGIN
	LOCK TABLE distilface.unfilled IN SHARE ROW EXCLUSIVE MODE;
	RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.restore_in_turn FROM PUBLIC;

-- Leaves out a row that is here: of a built-in model, which the build of an index puts in place.
CREATE FUNCTION distilface.restore_row() RETURNS trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	same boolean;
	what text;
BEGIN
	CASE TG_TABLE_NAME
		WHEN 'model' THEN
			what := format('model "%s"', NEW.name);
			SELECT m.revision = NEW.revision
					AND (m.sha256 IS NOT DISTINCT FROM NEW.sha256 OR m.builtin AND NEW.builtin) INTO same
				FROM distilface.model m WHERE m.name = NEW.name;
		WHEN 'model_part' THEN
			-- The sha256 tells the content.
			SELECT true INTO same FROM distilface.model_part p
				WHERE p.sha256 = NEW.sha256 AND p.part = NEW.part;
		WHEN 'model_alias' THEN
			what := format('alias "%s"', NEW.alias);
			SELECT a.name = NEW.name INTO same FROM distilface.model_alias a WHERE a.alias = NEW.alias;
		WHEN 'model_role' THEN
			what := format('a right of %s to model "%s"', NEW.role, NEW.name);
			SELECT r.owns = NEW.owns INTO same FROM distilface.model_role r
				WHERE r.name = NEW.name AND r.role = NEW.role;
	END CASE;
	IF same THEN
		RETURN NULL;
	ELSIF NOT same THEN
		RAISE EXCEPTION '% is in this database already, and differs', what
			USING ERRCODE = 'duplicate_object',
			HINT = 'Restore into a database that has no models of its own.';
	END IF;
	RETURN NEW;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.restore_row FROM PUBLIC;

CREATE FUNCTION distilface.restored() RETURNS trigger
	LANGUAGE plpgsql
AS $$
BEGIN
	PERFORM distilface.fill_indexes();
	RETURN NULL;
END
$$;
REVOKE EXECUTE ON FUNCTION distilface.restored FROM PUBLIC;

DO $$
DECLARE
	tab text;
BEGIN
	FOREACH tab IN ARRAY ARRAY['model', 'model_part', 'model_alias', 'model_role'] LOOP
		EXECUTE format('CREATE TRIGGER restore_in_turn BEFORE INSERT ON distilface.%I
			FOR EACH STATEMENT WHEN (distilface.restoring()) EXECUTE FUNCTION distilface.restore_in_turn()', tab);
		EXECUTE format('CREATE TRIGGER restore_row BEFORE INSERT ON distilface.%I
			FOR EACH ROW WHEN (distilface.restoring()) EXECUTE FUNCTION distilface.restore_row()', tab);
		EXECUTE format('CREATE TRIGGER restored AFTER INSERT ON distilface.%I
			FOR EACH STATEMENT WHEN (distilface.restoring()) EXECUTE FUNCTION distilface.restored()', tab);
	END LOOP;
END
$$;
