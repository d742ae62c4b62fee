package postgres

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

// TestBegin_BoundsLockWaitsBehindAPooler: a pooler does not keep the session's settings.
func TestBegin_BoundsLockWaitsBehindAPooler(t *testing.T) {
	server := peers.Postgres(t)
	other, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	for _, statement := range []string{"CREATE TABLE _eds_checkpoint (generation bigint)", "BEGIN", "LOCK TABLE _eds_checkpoint"} {
		if _, err := other.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	target, err := url.Parse(server + "&lock_timeout=1s")
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := parse(target, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	d.pooled.Store(true)
	s, err := d.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	tx, err := s.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Raise(t.Context(), &sqlsink.Layout{Real: &sqlsink.RealTable{Name: "_eds_checkpoint"}}); err != nil {
		t.Fatal(err)
	}
	err = tx.Commit(t.Context())
	if e := new(serverError); !errors.As(err, &e) || !d.Classify(err).Locked {
		t.Errorf("want an error about a lock, got: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDescribeBlocker(t *testing.T) {
	for _, c := range []struct {
		row  []string
		want string
	}{
		{
			[]string{"7", "bob", "psql", "idle in transaction", "60", "50"},
			`pid 7 (user "bob", application "psql", idle in transaction, transaction for 60 s, last statement began 50 s ago)`,
		},
		{[]string{"7", "bob", "", "active", "60", "50"}, `pid 7 (user "bob", active, transaction for 60 s, statement for 50 s)`},
		{[]string{"7", "bob", "psql", "", "", ""}, `pid 7 (user "bob", application "psql")`},
	} {
		row := make(resultRow, len(c.row))
		for i, text := range c.row {
			row[i] = []byte(text)
		}
		if got := describeBlocker(row); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
