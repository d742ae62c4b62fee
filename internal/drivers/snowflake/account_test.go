//go:build snowflake

package snowflake

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
)

// TestAccount runs the conformance suite on a real account, which costs some credits:
//
//	export EDS_TEST_SNOWFLAKE_URL='snowflake://user:password@account/DATABASE?warehouse=WH&role=R'
//	go test -tags snowflake -run TestAccount -timeout 2h ./internal/drivers/snowflake
//
// Each check has its own schema in the URL's database, which is dropped afterwards. The role needs
// CREATE SCHEMA on the database.
func TestAccount(t *testing.T) {
	raw := os.Getenv("EDS_TEST_SNOWFLAKE_URL")
	base, err := url.Parse(raw)
	if err != nil || base.Host == "" {
		t.Fatal("set EDS_TEST_SNOWFLAKE_URL to the URL of a database")
	}
	driver := Driver()
	if base.Scheme == "snowflake-keypair" {
		driver = KeyPair()
	}
	driver.Open = withEnvironment(driver.Open)
	sinktest.Run(t, sinktest.Config{
		Driver: driver,
		URL: func(t testing.TB) string {
			u := *base
			database, _, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
			schema := "EDS_TEST_" + strings.ToUpper(rand.Text())
			u.Path = "/" + database + "/" + schema
			t.Cleanup(func() { executeOn(t, u.String(), "DROP SCHEMA IF EXISTS "+quote(schema)) })
			return u.String()
		},
		Untouched: func(t testing.TB) (string, func() string) {
			u := *base
			database, _, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
			schema := "EDS_TEST_" + strings.ToUpper(rand.Text())
			u.Path = "/" + database + "/" + schema
			t.Cleanup(func() { executeOn(t, u.String(), "DROP SCHEMA IF EXISTS "+quote(schema)) })
			return u.String(), func() string {
				return executeOn(t, u.String(), "SELECT LISTAGG(SCHEMA_NAME, ' ') WITHIN GROUP (ORDER BY SCHEMA_NAME) "+
					"FROM INFORMATION_SCHEMA.SCHEMATA")
			}
		},
		Foreign: func(t testing.TB, target, table string) {
			executeOn(t, target, "CREATE TABLE "+quote(table)+
				` ("id" STRING PRIMARY KEY, "n" NUMBER(9,0), "s" VARCHAR(10), "must" STRING NOT NULL, "extra" STRING)`)
			executeOn(t, target, "INSERT INTO "+quote(table)+` VALUES ('old', 7, 'short', 'there', 'kept')`)
		},
		LoseStage: func(t testing.TB, target, job, table, id string) {
			executeOn(t, target, sinktest.LoseStageSQL(`"`, job, table, id))
		},
	})
}

// withEnvironment wraps open so that options can name variables of the test's environment.
func withEnvironment(open func(context.Context, *url.URL, sink.Env) (sink.Sink, error)) func(context.Context, *url.URL,
	sink.Env) (sink.Sink, error) {
	return func(ctx context.Context, target *url.URL, env sink.Env) (sink.Sink, error) {
		env.Lookup = os.LookupEnv
		return open(ctx, target, env)
	}
}

// executeOn executes one statement in a separate session, and returns the first value of the
// result.
func executeOn(t testing.TB, raw, sql string) string {
	t.Helper()
	target, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parse(target, sink.Env{Lookup: os.LookupEnv})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	s, err := (&dialect{target: target, account: c.account, env: sink.Env{Lookup: os.LookupEnv}}).connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.query(ctx, "prepare the test", sql)
	if err := errors.Join(err, s.Close(ctx)); err != nil {
		t.Fatal(err)
	}
	if len(found.rows) == 0 {
		return ""
	}
	return found.text(0, 0)
}
