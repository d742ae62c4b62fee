package e2e_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/localhq"
)

// commits hold transactions of eds just before they commit, at the points that are armed.
// A deferred trigger runs as part of a COMMIT: a server that is released goes on with it,
// whether its client is still there or not.
const commits = `
CREATE TABLE failpoint (point text);
CREATE FUNCTION reach(reached text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	IF EXISTS (SELECT FROM failpoint WHERE point = reached) THEN
		PERFORM pg_advisory_xact_lock_shared(7);
	END IF;
END $$;
CREATE FUNCTION reach_record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM reach(CASE
		WHEN TG_TABLE_NAME = '_eds_snapshot' THEN 'place'
		WHEN TG_TABLE_NAME = '_eds_load' THEN CASE to_jsonb(NEW) ->> 'file' WHEN '_eds_start' THEN 'start' WHEN '_eds_advanced' THEN 'catch up' ELSE 'load' END
		WHEN TG_OP = 'DELETE' THEN 'join'
		WHEN to_jsonb(NEW) ->> 'state' = 'behind' THEN 'behind'
		WHEN to_jsonb(NEW) ->> 'state' = 'ok' THEN 'join'
	END);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER reach AFTER INSERT OR UPDATE ON _eds_load DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION reach_record();
CREATE CONSTRAINT TRIGGER reach AFTER INSERT OR UPDATE ON _eds_snapshot DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION reach_record();
CREATE CONSTRAINT TRIGGER reach AFTER INSERT OR UPDATE OR DELETE ON _eds_table DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION reach_record();
CREATE FUNCTION reach_key() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity LIKE '%\_eds\_load\_%' AND command_tag = 'ALTER TABLE') THEN
		PERFORM reach('key');
	END IF;
END $$;
CREATE EVENT TRIGGER reach ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION reach_key()`

// TestImport_BesideItsServerIsKilledAroundEachCommit kills the server just before each kind
// of commit of an import beside the stream, which then does not or does take place, and the
// program that starts again finds out which.
func TestImport_BesideItsServerIsKilledAroundEachCommit(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, localhq.Options{Rate: besideRate / 2})
	w.imports()
	p := w.serve()
	w.follows(p)
	d.joined(p)
	d.execute(commits)
	holder, err := pgx.Connect(t.Context(), d.url)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close(context.Background())
	hold := func(statements string) {
		t.Helper()
		if _, err := holder.PgConn().Exec(t.Context(), statements).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	const waiting = "SELECT count(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND NOT granted"
	readers := d.read()
	for _, point := range []string{"start", "load", "key", "catch up", "behind", "place", "join"} {
		for _, commits := range []bool{false, true} {
			hold("SELECT pg_advisory_lock(7); INSERT INTO failpoint VALUES ('" + point + "')")
			command := w.importing("--only", "order,customer")
			eventually(t, "eds reaches: "+point, func() bool { return d.query(waiting) != "0" }, p.output)
			p.kill()
			if !commits {
				hold("SELECT pg_terminate_backend(pid) FROM (" + strings.Replace(waiting, "count(pid)", "pid", 1) + ") AS stopped")
			}
			hold("DELETE FROM failpoint; SELECT pg_advisory_unlock(7)")
			p = w.serve()
			// If it was killed as the import ended, no server knows the import any more.
			if code := command.wait(); code != 0 && !strings.Contains(command.output(), "this server knows no import") {
				t.Errorf("%s: the import ends with %d\n%s\n%s", point, code, command.output(), p.output())
			}
			d.joined(p)
		}
	}
	w.drain(p)
	d.joined(p)
	readers.stop()
	p.stop()
	w.equal()
}
