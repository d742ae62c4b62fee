package postgres_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers/postgres"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/testing/peers"
	"github.com/shopmonkeyus/eds/internal/testing/sqltest"
)

// openError opens a URL and returns the error.
func openError(t *testing.T, raw string) error {
	t.Helper()
	target, err := sink.ParseURL(raw, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	s, err := postgres.Driver().Open(t.Context(), target, sink.Env{})
	if err == nil {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	return err
}

func TestOpen_ExplainsErrors(t *testing.T) {
	server := peers.StartPostgres(t)
	database := server.Database(t)
	d := openURL(t, database, sink.Env{})
	d.exec(`CREATE ROLE shut LOGIN PASSWORD 'right'; CREATE ROLE poor LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC`)
	d.conn = nil
	server.Authenticate(t, "host all shut 127.0.0.1/32 scram-sha-256", "host all outsider 127.0.0.1/32 reject",
		"host all all 127.0.0.1/32 trust")
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	host, path := u.Host, u.Path
	for name, c := range map[string]struct {
		url   string
		class fault.Class
		says  string
	}{
		"wrong password": {
			"postgres://shut:wrong@" + host + path, fault.Fatal,
			`connect: ` + host + ` refuses the password of user "shut": password authentication failed for user "shut" (SQLSTATE 28P01)`,
		},
		"no entry":         {"postgres://outsider@" + host + path + "?sslmode=disable", fault.Fatal, `does not let user "outsider" in`},
		"missing database": {"postgres://postgres@" + host + "/absent", fault.Fatal, `run: CREATE DATABASE "absent"`},
		"no server": {
			"postgres://postgres@127.0.0.1:1/x", fault.Transient,
			`connect to 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused`,
		},
		"no such host":   {"postgres://postgres@nowhere.invalid/x", fault.Transient, `nowhere.invalid`},
		"no TLS":         {"postgres://postgres@" + host + path + "?sslmode=require", fault.Transient, `server refused TLS connection`},
		"no database":    {"postgres://postgres@" + host, fault.Fatal, `the postgres url names no database`},
		"unknown option": {"postgres://postgres@" + host + path + "?sslmod=disable", fault.Fatal, `did you mean "sslmode"?`},
		"bad option": {
			"postgres://postgres:secret@" + host + path + "?sslmode=maybe", fault.Fatal,
			`option sslmode should be disable, allow, `,
		},
		"missing file": {
			"postgres://postgres:secret@" + host + path + "?sslmode=verify-full&sslrootcert=/absent", fault.Fatal,
			`read the file that option sslrootcert names: no such file`,
		},
		"bad metadata": {
			"postgres://postgres@" + host + path + "?metadata=perhaps", fault.Fatal,
			`option metadata should be true or false`,
		},
		"bad delete": {"postgres://postgres@" + host + path + "?delete=never", fault.Fatal, `option delete should be hard or soft`},
		"schema forbidden": {
			"postgres://poor@" + host + path + "?schema=mine", fault.Fatal,
			`run: CREATE SCHEMA "mine" AUTHORIZATION "poor"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := openError(t, c.url)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %s in it", err, c.says)
			}
			if fault.Of(err) != c.class {
				t.Errorf("class %v, want %v", fault.Of(err), c.class)
			}
			if strings.Contains(fmt.Sprint(err), "secret") || strings.Contains(fmt.Sprint(err), "wrong@") {
				t.Errorf("the error contains the password: %v", err)
			}
		})
	}
	if err := d.Probe(t.Context()); err != nil {
		t.Errorf("a good destination: %v", err)
	}
	poor := openURL(t, "postgres://poor@"+host+path, sink.Env{})
	err = poor.Probe(t.Context())
	if fault.Of(err) != fault.Fatal || !strings.Contains(fmt.Sprint(err), `run: GRANT USAGE, CREATE ON SCHEMA "public" TO "poor"`) {
		t.Errorf("without the privilege: %v", err)
	}
	sinktest.Equal(t, nil, d.query(`SELECT relname FROM pg_class WHERE relname LIKE '\_eds\_probe%'`))
}

func TestApply_RetriesRefusedCredentials(t *testing.T) {
	server := peers.StartPostgres(t)
	database := server.Database(t)
	order := sinktest.Table(t, "order", 1, "id string")
	d := openURL(t, database, sink.Env{})
	h := sinktest.NewChanges(t, 0)
	d.MustApply(h.Put(order, `{"id":"1"}`).Batch())
	server.Authenticate(t, "host all all 127.0.0.1/32 reject")
	batch := h.Put(order, `{"id":"2"}`).Batch()
	if err := d.Apply(t.Context(), batch); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("error %v of class %v, want transient", err, fault.Of(err))
	}
	server.Authenticate(t, "host all all 127.0.0.1/32 trust")
	d.MustApply(batch)
}

func TestOpen_TLS(t *testing.T) {
	server := peers.StartPostgres(t)
	authority := server.EnableTLS(t, "localhost")
	u, err := url.Parse(server.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other.pem")
	if err := os.WriteFile(other, peers.Authority(t), 0o600); err != nil {
		t.Fatal(err)
	}
	byName := "localhost:" + u.Port()
	for _, c := range []struct{ host, options, says string }{
		{u.Host, "sslmode=require", ""},
		{u.Host, "sslmode=verify-ca&sslrootcert=" + authority, ""},
		{byName, "sslmode=verify-full&sslrootcert=" + authority, ""},
		{u.Host, "sslmode=verify-full&sslrootcert=" + authority, "its certificate is for another name"},
		{byName, "sslmode=verify-full&sslrootcert=" + other, "signed by an authority that is not trusted"},
		{byName, "sslmode=verify-full", "signed by an authority that is not trusted; give it with sslrootcert=FILE"},
	} {
		err := openError(t, "postgres://postgres@"+c.host+u.Path+"?"+c.options)
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.options, err)
		case c.says != "" && (!strings.Contains(fmt.Sprint(err), c.says) || fault.Of(err) != fault.Fatal):
			t.Errorf("%s: error %v of class %v, want %s in it", c.options, err, fault.Of(err), c.says)
		}
	}
}

func TestBuildURL_FromFields(t *testing.T) {
	for name, c := range map[string]struct {
		values map[string]string
		url    string
		wrong  []sink.FieldError
	}{
		"all": {
			map[string]string{
				"Database": "my shop", "Username": "u@x", "Password": "p:/?#@%", "Hostname": "db.example.com",
				"Port": "6432",
			},
			"postgres://u%40x:p%3A%2F%3F%23%40%25@db.example.com:6432/my%20shop", nil,
		},
		"least": {map[string]string{"Database": "d", "Username": "u", "Hostname": "::1"}, "postgres://u@[::1]:5432/d", nil},
		"nothing": {nil, "", []sink.FieldError{
			{Field: "Database", Error: "a value is needed"},
			{Field: "Username", Error: "a value is needed"},
			{Field: "Hostname", Error: "a value is needed"},
		}},
		"nonsense": {map[string]string{"Database": "d", "Username": "u", "Hostname": "http://x", "Port": "65536"}, "", []sink.FieldError{
			{Field: "Hostname", Error: "it should be a host name or an address, without a port or a scheme"},
			{Field: "Port", Error: "it should be a number from 1 to 65535"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			sqltest.WantURL(t, postgres.Driver(), c.values, c.url, c.wrong)
		})
	}
}
