package sqlserver

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/schema"
	"github.com/shopmonkeyus/eds/internal/sink"
	"github.com/shopmonkeyus/eds/internal/sink/sinktest"
	"github.com/shopmonkeyus/eds/internal/sink/sqlsink"
	"github.com/shopmonkeyus/eds/internal/testing/peers/tds"
)

// openSink opens a sink on a database of the server. The address is that of the server or of a
// proxy.
func openSink(t *testing.T, server *tds.Server, address, options string) *sqlsink.Sink {
	t.Helper()
	u, err := url.Parse(server.URL("shop"))
	if err != nil {
		t.Fatal(err)
	}
	u.Host, u.RawQuery = address, options
	opened, err := Driver().Open(t.Context(), u, sink.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return opened.(*sqlsink.Sink)
}

func TestMigrate_TriesAgainWhileTheTableIsLocked(t *testing.T) {
	server := tds.Start(t, tds.Options{})
	s := openSink(t, server, server.Addr(), "")
	fails := 1
	server.Fail(func(statement string) *tds.Error {
		if fails == 0 || !strings.HasPrefix(statement, "CREATE TABLE [dbo].[thing]") {
			return nil
		}
		fails--
		return &tds.Error{Number: 1222, Class: 16, State: 1, Message: "Lock request time out period exceeded."}
	})
	thing := sinktest.Table(t, "thing", 1, "id string", "n string")
	if _, err := s.Migrate(t.Context(), []*schema.Table{thing}); err != nil {
		t.Fatal(err)
	}
	// Only statements that change a table wait for a short time.
	statements := server.Statements()
	for i, statement := range statements {
		if !strings.HasPrefix(statement, "CREATE TABLE [dbo].[thing]") {
			continue
		}
		before := slices.DeleteFunc(slices.Clone(statements[:i]),
			func(other string) bool { return !strings.Contains(other, "SET LOCK_TIMEOUT ") })
		if last := before[len(before)-1]; last != "SET LOCK_TIMEOUT 1000;" {
			t.Errorf("before it: %s", last)
		}
	}
	after := slices.DeleteFunc(statements, func(other string) bool { return !strings.HasPrefix(other, "SET LOCK_TIMEOUT ") })
	sinktest.Equal(t, []string{"SET LOCK_TIMEOUT 1000;", "SET LOCK_TIMEOUT 30000;", "SET LOCK_TIMEOUT 1000;", "SET LOCK_TIMEOUT 30000;"},
		after)
}

func TestApply_LeavesAServerThatDoesNotAnswer(t *testing.T) {
	for _, rows := range []int{1, 100} {
		t.Run(fmt.Sprintf("rows=%d", rows), func(t *testing.T) {
			server := tds.Start(t, tds.Options{})
			proxy := sinktest.NewProxy(t, server.Addr())
			s := openSink(t, server, proxy.Addr(), "statement_timeout=2s")
			thing := sinktest.Table(t, "thing", 1, "id string", "n string")
			h := sinktest.NewChanges(t, 0)
			if err := s.Apply(t.Context(), h.Put(thing, `{"id":"a","n":"1"}`).Batch()); err != nil {
				t.Fatal(err)
			}
			for i := range rows {
				h.Put(thing, fmt.Sprintf(`{"id":"%d","n":"2"}`, i))
			}
			batch := h.Batch()
			proxy.Stall()
			if err := s.Apply(t.Context(), batch); fault.Of(err) != fault.Transient || !errors.As(err, new(*sqlsink.SilentError)) {
				t.Fatalf("want a transient *sqlsink.SilentError, got: %v", err)
			}
			proxy.Repair()
			if err := s.Apply(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			count := 0
			for _, err := range s.Read(t.Context(), thing) {
				if err != nil {
					t.Fatal(err)
				}
				count++
			}
			if count != rows+1 {
				t.Errorf("the table has %d rows, want %d", count, rows+1)
			}
		})
	}
}
