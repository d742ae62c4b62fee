package sqlserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/shopmonkeyus/eds/internal/change"
	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/peers/tds"
)

// newSession creates a database on the server, runs statements in the database, and opens a
// session.
func newSession(t testing.TB, server *tds.Server, statements string) *sqlSession {
	t.Helper()
	server.Exec(t, "shop", statements)
	target, err := url.Parse(server.URL("shop"))
	if err != nil {
		t.Fatal(err)
	}
	d, _, err := parse(target, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// layoutFor returns a layout that maps text columns onto the real table with the given name.
func (s *sqlSession) layoutFor(t testing.TB, table string, keys int, columns ...string) *sqlsink.Layout {
	t.Helper()
	found, err := s.Tables(t.Context(), []string{table})
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	var list []schema.Column
	for _, c := range columns {
		list = append(list, schema.Column{Name: c, Type: schema.String})
	}
	source, err := schema.New(table, "1", columns[:keys], list)
	if err != nil {
		t.Fatal(err)
	}
	l := &sqlsink.Layout{Table: source, Real: found[0], Keys: keys}
	for i, c := range columns {
		at := slices.IndexFunc(found[0].Columns, func(r sqlsink.RealColumn) bool { return r.Name == c })
		l.Columns = append(l.Columns, sqlsink.Target{
			Slot: source.Slot([]byte(c)), Type: schema.String, Key: i < keys,
			Real: &found[0].Columns[at],
		})
	}
	return l
}

// write writes rows in a separate transaction.
func (s *sqlSession) write(t testing.TB, l *sqlsink.Layout, images ...string) error {
	t.Helper()
	w := &sqlsink.Write{Layout: l, Synced: time.Now()}
	for _, image := range images {
		spans, err := change.NewSplitter(l.Table).Split([]byte(image))
		if err != nil {
			t.Fatal(err)
		}
		w.Upserts = append(w.Upserts, change.Row{Image: []byte(image), Spans: spans})
	}
	tx, err := s.Begin(t.Context())
	if err != nil {
		return err
	}
	if err = tx.Write(t.Context(), w); err == nil {
		err = tx.Commit(t.Context())
	}
	if err != nil {
		return errors.Join(err, tx.Rollback(t.Context()))
	}
	return nil
}

// contents returns the rows of the layout's table as JSON values, sorted.
func (s *sqlSession) contents(t testing.TB, l *sqlsink.Layout) []string {
	t.Helper()
	var all []string
	for row, err := range s.Read(t.Context(), l) {
		if err != nil {
			t.Fatal(err)
		}
		var values []string
		for i := range l.Table.Columns {
			values = append(values, string(row.Value(i)))
		}
		all = append(all, strings.Join(values, " "))
	}
	slices.Sort(all)
	return all
}

const thing = "CREATE TABLE [thing] ([id] NVARCHAR(255) COLLATE Latin1_General_100_BIN2 NOT NULL PRIMARY KEY, [n] NVARCHAR(MAX) NULL);"

func TestClassify_ByErrorNumber(t *testing.T) {
	server := tds.Start(t, tds.Options{})
	s := newSession(t, server, thing)
	l := s.layoutFor(t, "thing", 1, "id", "n")
	secret := "4711-secret"
	for number, want := range map[int32]sqlsink.Verdict{
		1205: {}, 1222: {Locked: true}, 1105: {}, 9002: {}, 701: {}, 31337: {},
		40501: {RetryAfter: throttled, Lost: true}, 10928: {RetryAfter: throttled}, 40613: {Lost: true}, 3906: {Lost: true},
		2627: {Class: fault.Poison}, 547: {Class: fault.Poison}, 515: {Class: fault.Poison}, 8152: {Class: fault.Poison},
		2628: {Class: fault.Poison}, 245: {Class: fault.Poison}, 220: {Class: fault.Poison}, 8115: {Class: fault.Poison},
		50123: {Class: fault.Poison},
		229:   {Class: fault.Fatal}, 262: {Class: fault.Fatal}, 208: {Stale: true}, 207: {Stale: true},
	} {
		server.Fail(func(statement string) *tds.Error {
			if strings.HasPrefix(statement, "MERGE") {
				return &tds.Error{Number: number, Class: 16, State: 1, Message: "the server's own words"}
			}
			return nil
		})
		err := s.write(t, l, `{"id":"`+secret+`"}`)
		if got := s.dialect.Classify(err); err == nil || got != want {
			t.Errorf("%d: %+v, want %+v: %v", number, got, want, err)
		}
		if text := fmt.Sprint(err); !strings.Contains(text, fmt.Sprintf("error %d", number)) ||
			!strings.Contains(text, `upsert into table "thing"`) || strings.Contains(text, secret) {
			t.Errorf("%d: %v", number, err)
		}
		server.Fail(nil)
		if err := s.write(t, l, `{"id":"after"}`); err != nil {
			t.Errorf("after %d: %v", number, err)
		}
	}
}

func TestServerError_LeavesOutMessagesThatQuoteValues(t *testing.T) {
	server := tds.Start(t, tds.Options{})
	s := newSession(t, server, "CREATE TABLE [loose] ([id] NVARCHAR(40) NOT NULL PRIMARY KEY, [n] NVARCHAR(MAX) NULL)")
	l := s.layoutFor(t, "loose", 1, "id", "n")
	if err := s.write(t, l, `{"id":"private"}`); err != nil {
		t.Fatal(err)
	}
	// The column's collation treats the two keys as equal, but the source does not.
	err := s.write(t, l, `{"id":"PRIVATE"}`)
	if v := s.dialect.Classify(err); v.Class != fault.Poison || strings.Contains(strings.ToLower(fmt.Sprint(err)), "private") ||
		!strings.Contains(fmt.Sprint(err), "a unique constraint has the key already (error 2627") {
		t.Errorf("%+v: %v", v, err)
	}
	if diff := cmp.Diff([]string{`"private" `}, s.contents(t, l)); diff != "" {
		t.Error(diff)
	}
}

func TestTransaction_SendsItsStatementsBetweenBeginAndCommit(t *testing.T) {
	server := tds.Start(t, tds.Options{Durability: 2})
	s := newSession(t, server, thing)
	l := s.layoutFor(t, "thing", 1, "id", "n")
	statementKinds := func(images ...string) []string {
		before := len(server.Statements())
		if err := s.write(t, l, images...); err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, statement := range server.Statements()[before:] {
			words = append(words, strings.Join(strings.Fields(statement)[:2], " "))
		}
		return words
	}
	// With forced delayed durability, a commit is durable only after a flush of the log.
	if diff := cmp.Diff([]string{"BEGIN TRANSACTION", "MERGE INTO", "COMMIT TRANSACTION", "EXECUTE sys.sp_flush_log"},
		statementKinds(`{"id":"1"}`)); diff != "" {
		t.Error(diff)
	}
	var many []string
	for i := range smallRows + 1 {
		many = append(many, fmt.Sprintf(`{"id":"%d","n":"it's"}`, i))
	}
	load := []string{"SET FMTONLY", "select *", "INSERT BULK", "MERGE INTO", "COMMIT TRANSACTION", "EXECUTE sys.sp_flush_log"}
	if diff := cmp.Diff(append([]string{"BEGIN TRANSACTION", "CREATE TABLE"}, load...), statementKinds(many...)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(append([]string{"BEGIN TRANSACTION"}, load...), statementKinds(many...)); diff != "" {
		t.Errorf("the temporary table is kept: %s", diff)
	}
	if got := len(s.contents(t, l)); got != len(many) {
		t.Errorf("%d rows, want %d", got, len(many))
	}
}

func TestSession_LosesItsConnection(t *testing.T) {
	for name, c := range map[string]struct {
		fault tds.Error
		rows  int
	}{"before the commit": {tds.Error{Cut: true}, 0}, "after the commit": {tds.Error{Cut: true, After: true}, 1}} {
		t.Run(name, func(t *testing.T) {
			server := tds.Start(t, tds.Options{})
			s := newSession(t, server, thing)
			l := s.layoutFor(t, "thing", 1, "id", "n")
			server.Fail(func(statement string) *tds.Error {
				if statement == "COMMIT TRANSACTION" {
					return &c.fault
				}
				return nil
			})
			err := s.write(t, l, `{"id":"1"}`)
			if v := s.dialect.Classify(err); err == nil || !v.Lost || v.Class != fault.Transient {
				t.Errorf("%+v: %v", v, err)
			}
			server.Fail(nil)
			again := newSession(t, server, "SET XACT_ABORT ON")
			if got := again.contents(t, l); len(got) != c.rows {
				t.Errorf("rows %q, want %d", got, c.rows)
			}
		})
	}
}

func TestWrite_AvoidsMergeOnTablesWithDefects(t *testing.T) {
	for name, odd := range map[string]string{
		"a filtered index": `INSERT INTO [sys].[indexes] (object_id, index_id, name, is_primary_key, is_unique, is_disabled, ` +
			`has_filter, is_hypothetical) SELECT object_id, 2, N'filtered', 0, 0, 0, 1, 0 FROM sys.objects`,
		"a trigger instead of": `INSERT INTO [sys].[triggers] (parent_id, is_disabled, is_instead_of_trigger) SELECT object_id, 0, 1 ` +
			`FROM sys.objects`,
		"a history":      `UPDATE [sys].[tables] SET temporal_type = 2`,
		"kept in memory": `UPDATE [sys].[tables] SET is_memory_optimized = 1`,
	} {
		t.Run(name, func(t *testing.T) {
			server := tds.Start(t, tds.Options{})
			s := newSession(t, server, thing+odd)
			l := s.layoutFor(t, "thing", 1, "id", "n")
			for _, n := range []string{"1", "2"} {
				if err := s.write(t, l, `{"id":"a","n":"`+n+`"}`, `{"id":"`+n+`"}`); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff([]string{`"1" `, `"2" `, `"a" "2"`}, s.contents(t, l)); diff != "" {
				t.Error(diff)
			}
			if slices.ContainsFunc(server.Statements(), func(text string) bool { return strings.HasPrefix(text, "MERGE") }) {
				t.Error("it was merged into")
			}
		})
	}
}

// certificate returns a certificate for 127.0.0.1, and the file that contains the certificate.
func certificate(t *testing.T) (*tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "authority.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func TestOpen_ExplainsErrors(t *testing.T) {
	shown, file := certificate(t)
	plain := tds.Start(t, tds.Options{Exists: func(name string) bool { return name == "shop" }})
	encrypted := tds.Start(t, tds.Options{Certificate: shown, Encrypt: true})
	login := tds.Start(t, tds.Options{Certificate: shown})
	user := "sqlserver://eds:Passw0rd%21@"
	for name, c := range map[string]struct {
		url   string
		class fault.Class
		says  string // part of the error, or "" for no error
	}{
		"good":                 {user + plain.Addr() + "/shop", 0, ""},
		"the other scheme":     {"mssql://eds:Passw0rd%21@" + plain.Addr() + "/shop", 0, ""},
		"as the driver has it": {user + plain.Addr() + "?database=shop", 0, ""},
		"encrypted":            {user + encrypted.Addr() + "/shop?encrypt=true&certificate=" + url.QueryEscape(file), 0, ""},
		"trusted blindly":      {user + encrypted.Addr() + "/shop?encrypt=true&TrustServerCertificate=true", 0, ""},
		"encrypted by demand":  {user + encrypted.Addr() + "/shop", 0, ""},
		"encrypted login":      {user + login.Addr() + "/shop", 0, ""},
		"wrong password": {
			"sqlserver://eds:wrong@" + plain.Addr() + "/shop", fault.Fatal,
			plain.Addr() + ` refuses the user "eds" or the password`,
		},
		"missing database": {
			user + plain.Addr() + "/absent", fault.Fatal,
			`run: CREATE DATABASE [absent], and in it: CREATE USER [eds] FOR LOGIN [eds]`,
		},
		"no server": {user + "127.0.0.1:1/shop", fault.Transient, `connect to 127.0.0.1:1: `},
		"unknown authority": {
			user + encrypted.Addr() + "/shop?encrypt=true", fault.Fatal,
			`tls with ` + encrypted.Addr() + `: its certificate is signed by an authority that is not trusted; ` +
				`give it with certificate=FILE`,
		},
		"another name": {user + encrypted.Addr() + "/shop?encrypt=true&hostNameInCertificate=db.example.com&certificate=" +
			url.QueryEscape(file), fault.Fatal, `tls with ` + encrypted.Addr() +
			`: its certificate is for another name; give it with hostNameInCertificate=NAME: it is for `},
		"no TLS":         {user + plain.Addr() + "/shop?encrypt=true", fault.Transient, `server does not support encryption`},
		"no database":    {user + plain.Addr(), fault.Fatal, `the sqlserver url names no database`},
		"unknown option": {user + plain.Addr() + "/shop?encript=true", fault.Fatal, `did you mean "encrypt"?`},
		"bad option": {
			"sqlserver://eds:secret@" + plain.Addr() + "/shop?encrypt=maybe", fault.Fatal,
			`option encrypt should be true, strict, false or disable`,
		},
		"missing file": {
			"sqlserver://eds:secret@" + plain.Addr() + "/shop?encrypt=true&certificate=/absent.pem", fault.Fatal,
			`read the file that option certificate names: no such file`,
		},
		"bad Entra ID": {
			"sqlserver://eds:secret@" + plain.Addr() + "/shop?fedauth=Nonsense", fault.Fatal,
			`option fedauth should be ActiveDirectoryDefault, `,
		},
		"bad delete": {user + plain.Addr() + "/shop?delete=never", fault.Fatal, `option delete should be hard or soft`},
	} {
		t.Run(name, func(t *testing.T) {
			target, err := sink.ParseURL(c.url, func(string) (string, bool) { return "", false })
			if err != nil {
				t.Fatal(err)
			}
			s, err := Driver().Open(t.Context(), target, sink.Env{})
			if err == nil {
				if err := errors.Join(s.Probe(t.Context()), s.Close(t.Context())); err != nil {
					t.Error(err)
				}
			}
			if (err == nil) != (c.says == "") || !strings.Contains(fmt.Sprint(err), c.says) || err != nil && fault.Of(err) != c.class {
				t.Errorf("%v of class %v, want %v: %s", err, fault.Of(err), c.class, c.says)
			}
			if strings.Contains(fmt.Sprint(err), "secret") || strings.Contains(fmt.Sprint(err), "Passw0rd") {
				t.Errorf("the error contains the password: %v", err)
			}
		})
	}
}

func TestProbe_NamesTheMissingPermission(t *testing.T) {
	for number, grant := range map[int32]string{
		262:  "GRANT CREATE TABLE TO [eds]",
		2760: "GRANT SELECT, INSERT, UPDATE, DELETE, ALTER, REFERENCES ON SCHEMA::[dbo] TO [eds]",
		3906: "name the primary",
	} {
		server := tds.Start(t, tds.Options{})
		s := newSession(t, server, thing)
		server.Fail(func(statement string) *tds.Error {
			if strings.HasPrefix(statement, "CREATE TABLE") {
				return &tds.Error{Number: number, Class: 14, State: 1, Message: "permission denied"}
			}
			return nil
		})
		if err := s.CanWrite(t.Context()); fault.Of(err) != fault.Fatal || !strings.Contains(fmt.Sprint(err), grant) {
			t.Errorf("%d: %v", number, err)
		}
	}
}
