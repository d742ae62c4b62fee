package postgres_test

import (
	"fmt"
	"net/url"
	"os"
	"slices"
	"testing"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/drivers/postgres"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
)

func TestPassword_IsReadAtEachConnection(t *testing.T) {
	server := peers.StartPostgres(t)
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

func TestCertificates_AreReadAtEachConnection(t *testing.T) {
	server := peers.StartPostgres(t)
	database := server.Database(t)
	admin := openURL(t, database, sink.Env{})
	admin.exec("CREATE ROLE eds LOGIN; GRANT CREATE ON SCHEMA public TO eds")
	if err := admin.conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	admin.conn = nil
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	files := sinktest.NewRotation(t)
	trust := func(authority string) {
		text, err := os.ReadFile(authority)
		if err != nil {
			t.Fatal(err)
		}
		files.Put("authority", text)
	}
	certify := func() {
		certificate, key := server.ClientCertificate(t, "eds")
		files.Put("certificate", certificate)
		files.Put("key", key)
	}
	trust(server.EnableTLS(t, "localhost"))
	certify()
	server.Authenticate(t, "hostssl all eds 127.0.0.1/32 cert", "host all all 127.0.0.1/32 trust")
	raw := "postgres://eds@" + u.Host + u.Path + "?sslmode=verify-ca&sslrootcert=" + files.Path("authority") + "&sslcert=" +
		files.Path("certificate") + "&sslkey=" + files.Path("key")
	s, err := files.Open(postgres.Driver(), raw, sink.Env{})
	files.Works("the first certificates", err)
	clock := int64(0)
	apply := func() error {
		clock++
		return s.Apply(t.Context(), sinktest.NewChanges(t, clock).Put(things(t), fmt.Sprintf(`{"id":"a","n":%d}`, clock)).Batch())
	}
	files.Works("a batch", apply())
	other := server.EnableTLS(t, "localhost")
	files.Waits("another server's certificate", apply(), "its certificate is signed by an authority that is not trusted")
	trust(other)
	files.WaitsEventually("the first client's certificate", apply, "the server refuses the connection; it may want a client's certificate")
	certify()
	files.Works("the second certificates", apply())
}
