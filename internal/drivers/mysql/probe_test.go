package mysql_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers/mysql"
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
	s, err := mysql.Driver().Open(t.Context(), target, sink.Env{})
	if err == nil {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	return err
}

func TestOpen_ExplainsErrors(t *testing.T) {
	server := peers.StartMariaDB(t)
	database := server.Database(t)
	d := openURL(t, database, sink.Env{})
	d.exec("CREATE USER `p@ss` IDENTIFIED BY 'p/w%@:#?'; GRANT ALL ON *.* TO `p@ss`; CREATE USER poor; GRANT SELECT, CREATE ON " +
		d.query("SELECT DATABASE()")[0] + ".* TO poor; CREATE USER none; CREATE USER away@'10.0.0.1'")
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
		"wrong password":   {"mysql://p%40ss:wrong@" + host + path, fault.Fatal, host + ` refuses the password of user "p@ss"`},
		"unknown user":     {"mysql://stranger:wrong@" + host + path, fault.Fatal, `refuses the password of user "stranger"`},
		"missing database": {"mysql://root@" + host + "/absent", fault.Fatal, "run: CREATE DATABASE `absent`"},
		"no right to it": {
			"mysql://none@" + host + path, fault.Fatal,
			"user \"none\" may not use the database; run: GRANT SELECT, INSERT",
		},
		"no server": {
			"mysql://root@127.0.0.1:1/x", fault.Transient,
			`connect to 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused`,
		},
		"no such host":    {"mysql://root@nowhere.invalid/x", fault.Transient, `nowhere.invalid`},
		"no such socket":  {"mysql://root@/x?socket=/absent", fault.Transient, `connect to /absent`},
		"no TLS":          {"mysql://root@" + host + path + "?tls=skip-verify", fault.Fatal, `the server does not offer it`},
		"no database":     {"mysql://root@" + host, fault.Fatal, `the mysql url names no database`},
		"no host":         {"mysql:///x", fault.Fatal, `the mysql url names no host`},
		"host and socket": {"mysql://root@" + host + path + "?socket=/x", fault.Fatal, `names a host and a socket`},
		"unknown option":  {"mysql://root@" + host + path + "?tsl=true", fault.Fatal, `did you mean "tls"?`},
		"bad tls": {
			"mysql://root:secret@" + host + path + "?tls=maybe", fault.Fatal,
			`option tls should be false, preferred, skip-verify or true`,
		},
		"missing file": {
			"mysql://root:secret@" + host + path + "?tls-ca=/absent", fault.Fatal,
			`read the file that option tls-ca names: no such file`,
		},
		"half a pair": {"mysql://root:secret@" + host + path + "?tls-key=/absent", fault.Fatal, `go together`},
		"bad timeout": {
			"mysql://root@" + host + path + "?lock_timeout=soon", fault.Fatal,
			`option lock_timeout should be a duration like`,
		},
		"bad infile": {
			"mysql://root@" + host + path + "?local_infile=perhaps", fault.Fatal,
			`option local_infile should be auto, true or false`,
		},
		"bad key": {
			"mysql://root:secret@" + host + path + "?allowOldPasswords=secret", fault.Fatal,
			`option allowOldPasswords has a value that cannot be used`,
		},
		"bad metadata": {"mysql://root@" + host + path + "?metadata=perhaps", fault.Fatal, `option metadata should be true or false`},
		"bad delete":   {"mysql://root@" + host + path + "?delete=never", fault.Fatal, `option delete should be hard or soft`},
	} {
		t.Run(name, func(t *testing.T) {
			err := openError(t, c.url)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want %s in it", err, c.says)
			}
			if fault.Of(err) != c.class {
				t.Errorf("class %v, want %v", fault.Of(err), c.class)
			}
			if strings.Contains(fmt.Sprint(err), "secret") || strings.Contains(fmt.Sprint(err), "wrong") {
				t.Errorf("the error contains the password: %v", err)
			}
		})
	}
	for _, good := range []string{
		"mysql://p%40ss:p%2Fw%25%40%3A%23%3F@" + host + path, "mysql://root@" + path + "?socket=" + server.Socket(),
		database + "?charset=utf8mb4&parseTime=true&loc=UTC&multiStatements=true", database + "?compress=true&tls=false&timeout=5s",
	} {
		if err := openError(t, good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	if err := d.Probe(t.Context()); err != nil {
		t.Errorf("a good destination: %v", err)
	}
	poor := openURL(t, "mysql://poor@"+host+path, sink.Env{})
	err = poor.Probe(t.Context())
	if text := fmt.Sprint(err); fault.Of(err) != fault.Fatal ||
		!strings.Contains(text, "run: GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER") ||
		!strings.Contains(text, "ALTER command denied") {
		t.Errorf("without the privilege: %v", err)
	}
}

func TestApply_RetriesRefusedCredentials(t *testing.T) {
	d := openURL(t, peers.MariaDB(t), sink.Env{})
	d.exec("CREATE USER leaver IDENTIFIED BY 'first'; GRANT ALL ON *.* TO leaver")
	t.Cleanup(func() { d.exec("DROP USER leaver") })
	order := sinktest.Table(t, "order", 1, "id string")
	leaver := openURL(t, asUser(t, d.url, "leaver", "first"), sink.Env{})
	h := sinktest.NewChanges(t, 0)
	leaver.MustApply(h.Put(order, `{"id":"1"}`).Batch())
	d.exec("ALTER USER leaver IDENTIFIED BY 'second'")
	for _, id := range d.query("SELECT id FROM information_schema.processlist WHERE user = 'leaver'") {
		d.exec("KILL " + id)
	}
	batch := h.Put(order, `{"id":"2"}`).Batch()
	if err := leaver.Apply(t.Context(), batch); err == nil || fault.Of(err) != fault.Transient {
		t.Errorf("error %v of class %v, want transient", err, fault.Of(err))
	}
	d.exec("ALTER USER leaver IDENTIFIED BY 'first'")
	leaver.MustApply(batch)
}

func TestOpen_TLS(t *testing.T) {
	server := peers.StartMariaDB(t)
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
		{u.Host, "", ""},
		{u.Host, "tls=skip-verify", ""},
		{byName, "tls-ca=" + authority, ""},
		{u.Host, "tls-server-name=localhost&tls-ca=" + authority, ""},
		{u.Host, "tls=true&tls-ca=" + authority, "its certificate is for another name"},
		{byName, "tls=true&tls-ca=" + other, "signed by an authority that is not trusted"},
		{byName, "tls=true", "signed by an authority that is not trusted; give it with tls-ca=FILE"},
	} {
		raw := "mysql://root@" + c.host + u.Path + "?" + c.options
		if c.says == "" {
			d := openURL(t, "mysql://root@"+c.host+u.Path, sink.Env{}, c.options)
			sinktest.Equal(t, nil, d.query("SELECT 1 FROM dual WHERE FALSE"))
			if err := d.Probe(t.Context()); err != nil {
				t.Errorf("%s: %v", c.options, err)
			}
			encrypted := d.query("SELECT COUNT(*) > 0 FROM information_schema.global_status WHERE variable_name = 'SSL_ACCEPTS' " +
				"AND variable_value > 0")
			sinktest.Equal(t, []string{"1"}, encrypted)
			continue
		}
		if err := openError(t, raw); !strings.Contains(fmt.Sprint(err), c.says) || fault.Of(err) != fault.Fatal {
			t.Errorf("%s: error %v of class %v, want %s in it", c.options, err, fault.Of(err), c.says)
		}
	}
}

func TestApply_WarnsOnceWithoutLocalInfile(t *testing.T) {
	server := peers.StartMariaDB(t, "local_infile=0")
	d := openURL(t, server.Database(t), sink.Env{})
	order := sinktest.Table(t, "order", 1, "id string", "v integer")
	h := sinktest.NewChanges(t, 0)
	for v := range 3 {
		d.MustApply(h.Put(order, sinktest.Repeat(500, fmt.Sprintf(`{"id":"#","v":%d}`, v))...).Batch())
		d.load("job", order, sink.Merge, sinktest.Repeat(500, fmt.Sprintf(`{"id":"#","v":%d}`, v)))
	}
	sinktest.Equal(t, sinktest.Repeat(500, "#|2"), d.query("SELECT id, v FROM `order` ORDER BY id"))
	if n := strings.Count(d.Log.String(), "LOAD DATA LOCAL INFILE"); n != 1 {
		t.Errorf("it was logged %d times:\n%s", n, d.Log)
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
			"mysql://u%40x:p%3A%2F%3F%23%40%25@db.example.com:6432/my%20shop", nil,
		},
		"least": {map[string]string{"Database": "d", "Username": "u", "Hostname": "::1"}, "mysql://u@[::1]:3306/d", nil},
		"nothing": {nil, "", []sink.FieldError{
			{Field: "Database", Error: "a value is needed"},
			{Field: "Username", Error: "a value is needed"},
			{Field: "Hostname", Error: "a value is needed"},
		}},
		"nonsense": {map[string]string{"Database": "d/e", "Username": "u", "Hostname": "http://x", "Port": "65536"}, "", []sink.FieldError{
			{Field: "Hostname", Error: "it should be a host name or an address, without a port or a scheme"},
			{Field: "Port", Error: "it should be a number from 1 to 65535"},
			{Field: "Database", Error: "it should be the name of a database, without a slash"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			sqltest.WantURL(t, mysql.Driver(), c.values, c.url, c.wrong)
		})
	}
}
