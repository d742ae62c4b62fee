package postgres_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// TestRecords_WithoutPrivileges: a role that may not create or change tables continues with the
// checkpoint of an earlier version, and eds names the missing privilege.
func TestRecords_WithoutPrivileges(t *testing.T) {
	server := peers.Postgres(t)
	d := openURL(t, server, sink.Env{})
	role := "poor_" + d.query("SELECT current_database()")[0]
	d.exec(fmt.Sprintf(`CREATE TABLE _eds_checkpoint (stream text, consumer text, filter text, position bigint NOT NULL,
		  stored bigint NOT NULL, PRIMARY KEY (stream, consumer, filter));
		INSERT INTO _eds_checkpoint VALUES ('%s', '%s', '%s', 1, 1); CREATE TABLE "order" (id text PRIMARY KEY);
		CREATE ROLE %s LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[4]s`, sqltest.WriterEnv.Stream,
		sqltest.WriterEnv.Consumer, sqltest.WriterEnv.Filter, role))
	t.Cleanup(func() {
		d.exec(fmt.Sprintf("ALTER TABLE _eds_checkpoint OWNER TO postgres; DROP OWNED BY %s; DROP ROLE %[1]s", role))
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	order, h := sinktest.Table(t, "order", 1, "id string"), sinktest.NewChanges(t, 1)
	own := fmt.Sprintf(`run as its owner: ALTER TABLE "public"."_eds_checkpoint" OWNER TO "%s"`, role)
	for _, step := range []struct {
		says []string
		help string
	}{
		{
			[]string{own, fmt.Sprintf(`run: GRANT USAGE, CREATE ON SCHEMA "public" TO "%s"`, role)},
			fmt.Sprintf("GRANT USAGE, CREATE ON SCHEMA public TO %s", role),
		},
		{[]string{own}, fmt.Sprintf("ALTER TABLE _eds_checkpoint OWNER TO %s", role)},
		{},
	} {
		poor := openURL(t, u.String(), sqltest.WriterEnv)
		r, err := poor.Records(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if (r.Unavailable == nil) != (step.says == nil) {
			t.Errorf("records are unavailable: %v", r.Unavailable)
		}
		for _, says := range step.says {
			if !strings.Contains(fmt.Sprint(r.Unavailable), says) {
				t.Errorf("the error %v lacks %s", r.Unavailable, says)
			}
		}
		if r.Checkpoint == nil || r.Checkpoint.Position.Sequence == 0 {
			t.Fatalf("the checkpoint is %v", r.Checkpoint)
		}
		if _, err := poor.Begin(t.Context(), sink.Beginning{Position: r.Checkpoint.Position}); err != nil {
			t.Fatal(err)
		}
		batch := h.Put(order, `{"id":"1"}`).Batch()
		poor.MustApply(batch)
		if got := poor.Position(); got != batch.Last {
			t.Errorf("the checkpoint is %v, want %v", got, batch.Last)
		}
		if step.help != "" {
			d.exec(step.help)
		}
	}
	sinktest.Equal(t, []string{"1"}, d.query("SELECT count(*) FROM _eds_destination"))
}
