package postgres_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/postgres"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testpeers"
)

func TestPassword_IsReadAtEachConnection(t *testing.T) {
	server := testpeers.StartPostgres(t)
	database := server.Database(t)
	admin := openURL(t, database, sink.Env{})
	admin.exec("CREATE ROLE eds LOGIN PASSWORD 'first'; GRANT CREATE ON SCHEMA public TO eds")
	if err := admin.conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin.conn = nil
	server.Authenticate(t, "host all eds 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 trust")
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	files := sinktest.NewRotation(t)
	raw := "postgres://eds:" + files.Placeholder("password") + "@" + u.Host + u.Path + "?sslmode=disable"
	env := sink.Env{Stream: "dbchange", Consumer: "eds-1", Filter: "*"}
	files.Put("password", []byte("mistyped\n"))
	if _, err := files.Open(postgres.Driver(), raw, env); fault.Of(err) != fault.Fatal {
		t.Fatalf("at the first start: %v: %v", fault.Of(err), err)
	}
	files.Put("password", []byte("first\n"))
	s, err := files.Open(postgres.Driver(), raw, env)
	files.Works("the first password", err)
	thing, clock := things(t), int64(0)
	row := func(id int) *change.Batch {
		clock++
		return sinktest.NewChanges(t, clock).Put(thing, fmt.Sprintf(`{"id":"%d","n":%[1]d}`, id)).Batch()
	}
	files.Works("a batch", s.Apply(t.Context(), row(1)))
	admin.exec("ALTER ROLE eds PASSWORD 'second'")
	files.Works("a connection that is open", s.Apply(t.Context(), row(2)))
	admin.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'eds'")
	batch := row(3)
	files.Waits("a new connection", s.Apply(t.Context(), batch), `refuses the password of user "eds"`, "first", "second")
	files.Put("password", []byte("second\n"))
	files.Works("the second password", s.Apply(t.Context(), batch))
	if got := admin.query("SELECT string_agg(id, ' ' ORDER BY id) FROM thing"); !slices.Equal(got, []string{"1 2 3"}) {
		t.Errorf("the table has the rows %v", got)
	}
}
