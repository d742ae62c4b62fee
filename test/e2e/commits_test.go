package e2e_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/devhq"
)

// commits holds transactions of eds just before they commit, at the armed points. A deferred
// trigger runs as part of COMMIT: PostgreSQL completes a released commit even if its client is
// gone.
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
		WHEN TG_TABLE_NAME = '_eds_load' THEN CASE to_jsonb(NEW) ->> 'file'
			WHEN '_eds_start' THEN 'start' WHEN '_eds_advanced' THEN 'catch up' ELSE 'load' END
		WHEN TG_OP = 'DELETE' THEN 'join'
		WHEN to_jsonb(NEW) ->> 'state' = 'behind' THEN 'behind'
		WHEN to_jsonb(NEW) ->> 'state' = 'ok' THEN 'join'
	END);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER reach AFTER INSERT OR UPDATE ON _eds_load
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION reach_record();
CREATE CONSTRAINT TRIGGER reach AFTER INSERT OR UPDATE ON _eds_snapshot
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION reach_record();
CREATE CONSTRAINT TRIGGER reach AFTER INSERT OR UPDATE OR DELETE ON _eds_table
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION reach_record();
CREATE FUNCTION reach_key() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands()
		WHERE object_identity LIKE '%\_eds\_load\_%' AND command_tag = 'ALTER TABLE') THEN
		PERFORM reach('key');
	END IF;
END $$;
CREATE EVENT TRIGGER reach ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION reach_key()`

// held is a database whose commits can be held.
type held struct {
	*database
	conn *pgx.Conn // holds the lock that commits wait for
}

func (d *database) holdCommits() *held {
	d.t.Helper()
	d.execute(commits)
	conn, err := pgx.Connect(d.t.Context(), d.url)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close(context.Background()) })
	return &held{d, conn}
}

func (h *held) run(statements string) {
	h.t.Helper()
	if _, err := h.conn.PgConn().Exec(h.t.Context(), statements).ReadAll(); err != nil {
		h.t.Fatal(err)
	}
}

// arm makes the next commits of a kind wait.
func (h *held) arm(point string) {
	h.t.Helper()
	h.run("SELECT pg_advisory_lock(7); INSERT INTO failpoint VALUES ('" + point + "')")
}

// waiting are the sessions with waiting commits.
const waiting = "FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = " +
	"current_database()) AND NOT granted"

// reached waits until a commit waits.
func (h *held) reached(p *process, point string) {
	h.t.Helper()
	eventually(h.t, "eds reaches: "+point, func() bool { return h.query("SELECT count(*) "+waiting) != "0" }, p.output)
}

// refuse makes the waiting commits fail.
func (h *held) refuse() {
	h.t.Helper()
	h.run("SELECT pg_terminate_backend(pid) " + waiting)
}

// release lets commits complete.
func (h *held) release() {
	h.t.Helper()
	h.run("DELETE FROM failpoint; SELECT pg_advisory_unlock(7)")
}

// TestImport_BesideItsServerIsKilledAroundEachCommit kills the server just before each kind of
// commit of an import beside the stream. The commit then fails or succeeds, and the restarted
// program finds out which.
func TestImport_BesideItsServerIsKilledAroundEachCommit(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{Rate: besideRate / 2})
	w.imports()
	p := w.serve()
	w.follows(p)
	d.joined(p)
	c := d.holdCommits()
	readers := d.read()
	for _, point := range []string{"start", "load", "key", "catch up", "behind", "place", "join"} {
		for _, commits := range []bool{false, true} {
			c.arm(point)
			command := w.importing("--only", "order,customer")
			c.reached(p, point)
			p.kill()
			if !commits {
				c.refuse()
			}
			c.release()
			p = w.serve()
			// If it was killed at the end of the import, no server knows the import.
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

// TestImport_TakesLongerThanTheStreamKeeps makes the stream drop the changes after an import's
// snapshot before the import is done. The table is incomplete from the start, and a second import,
// which is fast enough, completes it.
func TestImport_TakesLongerThanTheStreamKeeps(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	w := newWorld(t, d.url, devhq.Options{})
	w.imports()
	p := w.serve()
	w.continues(p, 100)
	c := d.holdCommits()
	c.arm("load")
	command := w.importing("--only", "order")
	c.reached(p, "load")
	w.work(300)
	w.drain(p)
	if err := w.hq.PurgeStream(t.Context(), w.newest()); err != nil {
		t.Fatal(err)
	}
	c.release()
	if code := command.wait(); code != 0 {
		t.Errorf("the import ends with %d\n%s", code, command.output())
	}
	for _, said := range []string{"after the snapshot; changes since", "importing tables that are missing or incomplete"} {
		eventually(t, "the server says: "+said, func() bool { return strings.Contains(p.output(), said) }, p.output)
	}
	d.joined(p)
	w.work(100)
	w.drain(p)
	p.stop()
	w.equal()
}
