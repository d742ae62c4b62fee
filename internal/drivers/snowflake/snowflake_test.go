package snowflake_test

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/drivers/snowflake"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	peer "github.com/shopmonkeyus/eds/internal/testing/peers/snowflake"
)

// wantFatal checks that an error is fatal and has the expected text.
func wantFatal(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil || fault.Of(err) != fault.Fatal {
		t.Fatalf("want a fatal error, got %v", err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("the error lacks %q: %v", p, err)
		}
	}
}

func TestOpen_EveryWayToLogIn(t *testing.T) {
	key, err := privateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	file := filepath.Join(t.TempDir(), "key.p8")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{
		"KEY": text, "BARE": base64.StdEncoding.EncodeToString(der),
		"ESCAPED": strings.ReplaceAll(text, "\n", `\n`),
	}
	server := serve(t, newScript())
	tail := server.Host() + "/shop/public?protocol=http&account=test&warehouse=wh"
	for name, raw := range map[string]string{
		"password":             "snowflake://eds:p%40ss%2Fw%25rd@" + tail,
		"token":                "snowflake://eds@" + tail + "&token=PAT",
		"token as password":    "snowflake://eds:PAT@" + tail + "&authenticator=programmatic_access_token",
		"oauth":                "snowflake://eds@" + tail + "&authenticator=oauth&token=BEARER",
		"key in a variable":    "snowflake-keypair://eds@" + tail + "&secret-key=KEY",
		"key as bare base64":   "snowflake-keypair://eds@" + tail + "&secret-key=BARE",
		"key on one line":      "snowflake-keypair://eds@" + tail + "&secret-key=ESCAPED",
		"key in a file":        "snowflake-keypair://eds@" + tail + "&private-key-file=" + url.QueryEscape(file),
		"quoted, as it stands": strings.Replace("snowflake://eds:p%40ss%2Fw%25rd@"+tail, "/shop/public", "/%22SHOP%22/PUBLIC", 1),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(t, raw, func(e *sink.Env) {
				e.Lookup = func(name string) (string, bool) { v, ok := variables[name]; return v, ok }
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpen_ExplainsRefusedLogins(t *testing.T) {
	server := serve(t, newScript())
	tail := server.Host() + "/shop/public?protocol=http&account=test&warehouse=wh"
	for raw, parts := range map[string][]string{
		"snowflake://eds:WRONG@" + tail:                                  {"refuses the user name", "390100"},
		"snowflake://eds@" + tail + "&token=WRONG":                       {"refuses the token"},
		"snowflake://eds@" + tail + "&authenticator=oauth&token=WRONG":   {"refuses the token"},
		"snowflake-keypair://other@" + tail + "&secret-key=KEY":          {"refuses the key", "DESC USER"},
		"snowflake-keypair://eds@" + tail + "&secret-key=NONE":           {"names an environment variable that is not set"},
		"snowflake-keypair://eds@" + tail + "&secret-key=MIIEvQ%2BIBADA": {"should be the name of an environment variable"},
		"snowflake-keypair://eds@" + tail:                                {"secret-key=ENV_VAR"},
		"snowflake://eds@" + tail:                                        {"lacks the user or the password"},
		"snowflake://eds:x@" + tail + "&flush-interval=never":            {"flush-interval"},
		"snowflake://eds:x@" + tail + "&flush-rows=0":                    {"flush-rows"},
		"snowflake://eds:x@" + tail + "&warehose=x":                      {`did you mean "warehouse"?`},
		"snowflake://eds:x@" + server.Host() + "/?protocol=http":         {"names no database"},
	} {
		_, err := open(t, raw, func(e *sink.Env) {
			e.Lookup = func(name string) (string, bool) {
				key, err := privateKey()
				if err != nil {
					t.Fatal(err)
				}
				return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
					name == "KEY"
			}
		})
		wantFatal(t, err, parts...)
		if err != nil && (strings.Contains(err.Error(), "WRONG") || strings.Contains(err.Error(), "MIIEvQ")) {
			t.Errorf("the error contains the secret: %v", err)
		}
	}
}

func TestOpen_NamesMissingObjectsWithTheirGrants(t *testing.T) {
	for name, c := range map[string]struct {
		at    []string // the database, schema and warehouse of the session
		query string
		parts []string
	}{
		"database": {
			at:    []string{"", "", "WH"},
			parts: []string{`database "SHOP"`, `GRANT USAGE ON DATABASE "SHOP" TO ROLE "EDS"`},
		},
		"warehouse": {
			at:    []string{"SHOP", "PUBLIC", ""},
			parts: []string{`warehouse "WH"`, `GRANT USAGE ON WAREHOUSE "WH" TO ROLE "EDS"`},
		},
		"default warehouse": {at: []string{"SHOP", "PUBLIC", ""}, query: "warehouse=", parts: []string{"no warehouse", "warehouse=NAME"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript()
			s.on("SELECT CURRENT_DATABASE()", func(peer.Query) (*peer.Result, error) { return row(append(c.at, "EDS", "7")...), nil })
			raw := address(serve(t, s))
			if c.query != "" {
				raw = strings.Replace(raw, "warehouse=wh", c.query, 1)
			}
			_, err := open(t, raw)
			wantFatal(t, err, c.parts...)
		})
	}
}

func TestOpen_MakesNoSchema(t *testing.T) {
	s := newScript()
	s.on("SELECT CURRENT_DATABASE()", func(peer.Query) (*peer.Result, error) { return row("SHOP", "", "WH", "EDS", "7"), nil })
	server := serve(t, s)
	opened := mustOpen(t, address(server))
	order := customers(t)
	for _, err := range opened.(sink.Reader).Read(t.Context(), order) {
		t.Error(err)
	}
	made := func() (made []string) {
		for _, q := range server.Statements() {
			if first, _, _ := strings.Cut(q, " "); first != "SELECT" && first != "SHOW" {
				made = append(made, q)
			}
		}
		return made
	}
	if got := made(); len(got) > 0 {
		t.Errorf("opening and reading create objects: %q", got)
	}
	if err := opened.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	const own = `"SHOP"."_eds_probe_7"`
	if diff := cmp.Diff([]string{
		"CREATE TRANSIENT SCHEMA " + own, "USE SCHEMA " + own,
		`CREATE TEMPORARY STAGE IF NOT EXISTS "EDS_STAGE" FILE_FORMAT = (TYPE = JSON COMPRESSION = GZIP ALLOW_DUPLICATE = TRUE)`,
		`CREATE OR REPLACE TRANSIENT TABLE "_eds_probe_7" ("a" STRING)`, `INSERT INTO "_eds_probe_7" VALUES ('x')`,
		`DROP TABLE IF EXISTS "_eds_probe_7"`,
		"DROP SCHEMA IF EXISTS " + own,
	}, made()); diff != "" {
		t.Error(diff)
	}
	s.refuse("CREATE TRANSIENT SCHEMA", 3001, "42501", "Insufficient privileges to operate on database 'SHOP'.")
	wantFatal(t, opened.Probe(t.Context()), `schema "SHOP"."PUBLIC"`,
		`GRANT USAGE, CREATE TABLE, CREATE STAGE ON SCHEMA "SHOP"."PUBLIC" TO ROLE "EDS"`)
	before := len(made())
	_, _ = opened.(sink.Migrator).Migrate(t.Context(), []*schema.Table{order}) // the script has no tables to find afterwards
	if got := made()[before:]; len(got) < 3 || got[0] != `CREATE SCHEMA IF NOT EXISTS "SHOP"."PUBLIC"` ||
		got[1] != `USE SCHEMA "SHOP"."PUBLIC"` || !strings.HasPrefix(got[2], `CREATE TABLE`) {
		t.Errorf("the first table is created by %q", got)
	}
}

func TestProbe_NamesMissingPrivileges(t *testing.T) {
	for name, c := range map[string]struct {
		prefix, state string
		code          int
		parts         []string
	}{
		"stages": {"CREATE TEMPORARY STAGE", "42501", 3001, []string{`GRANT CREATE STAGE ON SCHEMA "SHOP"."PUBLIC" TO ROLE "EDS"`}},
		"tables": {
			"CREATE OR REPLACE TRANSIENT TABLE", "42501", 3001,
			[]string{`GRANT USAGE, CREATE TABLE ON SCHEMA "SHOP"."PUBLIC" TO ROLE "EDS"`},
		},
		"warehouse": {"INSERT", "57P03", 606, []string{`warehouse "WH"`, `GRANT USAGE, OPERATE ON WAREHOUSE "WH" TO ROLE "EDS"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScript()
			s.refuse(c.prefix, c.code, c.state, "No.")
			opened := mustOpen(t, address(serve(t, s)))
			wantFatal(t, opened.Probe(t.Context()), c.parts...)
		})
	}
}

func TestOpen_RetriesAnUnavailableService(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	listener.Close()
	_, err = open(t, "snowflake://eds:x@"+at+"/shop?protocol=http&account=test")
	if err == nil || fault.Of(err) != fault.Transient || !strings.Contains(err.Error(), "connect to "+at) {
		t.Errorf("want a transient error that names the address, got %v", err)
	}
}

func TestSession_OverridesAccountParameters(t *testing.T) {
	server := serve(t, newScript())
	mustOpen(t, address(server, "query-tag=nightly", "keep-alive=false"))
	got := server.Parameters()
	want := map[string]any{
		"QUERY_TAG": "nightly", "TIMEZONE": "UTC", "AUTOCOMMIT": "true", "LOCK_TIMEOUT": "30", "QUOTED_IDENTIFIERS_IGNORE_CASE": "false",
		"ERROR_ON_NONDETERMINISTIC_MERGE": "true",
		"TRANSACTION_ABORT_ON_ERROR":      "true", "CLIENT_SESSION_KEEP_ALIVE": "false",
	}
	for name, value := range want {
		if fmt.Sprint(got[name]) != value {
			t.Errorf("%s is %v, want %v (of %v)", name, got[name], value, got)
		}
	}
}

func TestLimits_ComeFromTheURL(t *testing.T) {
	server := serve(t, newScript())
	for option, want := range map[string]sink.Limits{
		"role=r":                            {Rows: 50_000, Bytes: 64 << 20, Age: 10 * time.Second, Metered: true},
		"flush-interval=5m&flush-rows=2000": {Rows: 2000, Bytes: 64 << 20, Age: 5 * time.Minute, Metered: true},
		"flush-interval=0s":                 {Rows: 50_000, Bytes: 64 << 20, Metered: true},
	} {
		pacer, ok := mustOpen(t, address(server, option)).(sink.Pacer)
		if !ok {
			t.Fatal("the sink is not a Pacer")
		}
		if diff := cmp.Diff(want, pacer.Limits()); diff != "" {
			t.Errorf("%s: %s", option, diff)
		}
	}
}

func TestBuildURL_FromFields(t *testing.T) {
	for _, c := range []struct {
		driver sink.Driver
		values map[string]string
		url    string
		wrong  []string
	}{
		{snowflake.Driver(), map[string]string{
			"Database": "SHOP/PUBLIC", "Username": "eds", "Password": "p@ss/w%rd",
			"Hostname": "myorg-account", "Warehouse": "WH",
		}, "snowflake://eds:p%40ss%2Fw%25rd@myorg-account/SHOP/PUBLIC?warehouse=WH", nil},
		{snowflake.Driver(), map[string]string{
			"Database": "SHOP", "Username": "eds", "Password": "x",
			"Hostname": "a.snowflakecomputing.com", "Port": "8443",
		}, "snowflake://eds:x@a.snowflakecomputing.com:8443/SHOP", nil},
		{snowflake.Driver(), map[string]string{
			"Database": "a/b/c", "Username": "eds", "Password": "x", "Hostname": "https://host",
			"Port": "0",
		}, "", []string{"Hostname", "Database", "Port"}},
		{
			snowflake.KeyPair(),
			map[string]string{
				"Database": "SHOP/PUBLIC", "Username": "eds", "Account": "myorg-account",
				"Secret": "SNOWFLAKE_KEY", "Role": "EDS",
			},
			"snowflake-keypair://eds@myorg-account/SHOP/PUBLIC?role=EDS&secret-key=SNOWFLAKE_KEY", nil,
		},
		{
			snowflake.KeyPair(),
			map[string]string{"Database": "SHOP", "Account": "a", "Secret": "-----BEGIN PRIVATE KEY-----"},
			"",
			[]string{"Username", "Secret"},
		},
	} {
		got, problems := c.driver.URL(c.values)
		var wrong []string
		for _, p := range problems {
			wrong = append(wrong, p.Field)
		}
		if got != c.url || !cmp.Equal(wrong, c.wrong) {
			t.Errorf("%v: %q with %q wrong; want %q, %q", c.values, got, wrong, c.url, c.wrong)
		}
	}
}

func TestErrors_ContainNoValues(t *testing.T) {
	s := newScript()
	s.table("customer", "id TEXT", "name TEXT", "visits NUMBER")
	s.refuse(`MERGE INTO "customer"`, 100038, "22018", "Numeric value 'SECRET' is not recognized")
	opened := mustOpen(t, address(serve(t, s)))
	err := opened.Apply(t.Context(), batch(t, customers(t), 1, `{"id":"1","name":"x"}`))
	if err == nil || fault.Of(err) != fault.Poison || strings.Contains(err.Error(), "SECRET") ||
		!strings.Contains(err.Error(), "it is not a number") {
		t.Errorf("want a poison error without the value, got %v", err)
	}
}

func TestClassify_ByErrorNumber(t *testing.T) {
	for _, c := range []struct {
		code  int
		state string
		want  fault.Class
		table bool // the destination refuses the table
	}{
		{100038, "22018", fault.Poison, false},
		{100078, "22000", fault.Poison, false},
		{100072, "22000", fault.Poison, false},
		{3001, "42501", fault.Fatal, true},
		{606, "57P03", fault.Transient, false},
		{604, "57014", fault.Transient, false},
		{625, "57014", fault.Transient, false},
		{1003, "42000", fault.Transient, false},
		{390111, "08001", fault.Transient, false},
		{2003, "42S02", fault.Fatal, true},
		{904, "42000", fault.Fatal, true},
	} {
		s := newScript()
		s.table("customer", "id TEXT", "name TEXT", "visits NUMBER")
		s.refuse(`MERGE INTO "customer"`, c.code, c.state, "No.")
		err := mustOpen(t, address(serve(t, s))).Apply(t.Context(), batch(t, customers(t), 1, `{"id":"1"}`))
		if err == nil || fault.Of(err) != c.want || errors.As(err, new(*sink.TableError)) != c.table {
			t.Errorf("%d: class %v, want %v, of the table: %v: %v", c.code, fault.Of(err), c.want, c.table, err)
		}
	}
}

func TestApply_LooksOnceMoreForAMissingTable(t *testing.T) {
	s := newScript()
	s.table("customer", "id TEXT", "name TEXT", "visits NUMBER")
	server := serve(t, s)
	gone := true
	server.Intercept(func(sql string) error {
		if gone && strings.HasPrefix(sql, `MERGE INTO "customer"`) {
			gone = false
			return &peer.Error{Code: 2003, State: "42S02", Message: "Object 'customer' does not exist or not authorized."}
		}
		return nil
	})
	if err := mustOpen(t, address(server)).Apply(t.Context(), batch(t, customers(t), 1, `{"id":"1"}`)); err != nil {
		t.Error(err)
	}
}

func TestApply_LeavesAServiceThatDoesNotAnswer(t *testing.T) {
	s := newScript()
	s.table("customer", "id TEXT", "name TEXT", "visits NUMBER")
	server := serve(t, s)
	hangs, resume := true, make(chan struct{})
	server.Intercept(func(sql string) error {
		if hangs && strings.HasPrefix(sql, `MERGE INTO "customer"`) {
			hangs = false
			<-resume
			return &peer.Error{Code: 604, State: "57014", Message: "SQL execution canceled"}
		}
		return nil
	})
	d := mustOpen(t, address(server, "statement_timeout=2s"))
	err := d.Apply(t.Context(), batch(t, customers(t), 1, `{"id":"1"}`))
	close(resume)
	if fault.Of(err) != fault.Transient || !errors.As(err, new(*sqlsink.SilentError)) {
		t.Fatalf("want a transient *sqlsink.SilentError, got: %v", err)
	}
	if err := d.Apply(t.Context(), batch(t, customers(t), 1, `{"id":"1"}`)); err != nil {
		t.Error(err)
	}
}
