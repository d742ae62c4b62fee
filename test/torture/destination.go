package torture

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/shopmonkeyus/eds/internal/drivers"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Destination is a database that a schedule damages while eds writes to it. To
// torture another one, implement this interface and add it to Destinations.
type Destination interface {
	// URL never changes.
	URL() string
	// Copy makes a consistent copy of everything, and returns its name.
	Copy(ctx context.Context) (string, error)
	// Restore replaces everything with a copy, which can be restored again.
	Restore(ctx context.Context, name string) error
	// Empty drops every table, those of eds included.
	Empty(ctx context.Context) error
	// Drop drops a table, if it exists. Truncate deletes its rows, if it exists.
	Drop(ctx context.Context, table string) error
	Truncate(ctx context.Context, table string) error
	// Read calls f with a reader of the rows, which is good until f returns. A table
	// that does not exist has no rows.
	Read(ctx context.Context, f func(sink.Reader) error) error
}

// Destinations returns a function that starts each destination, by name. A
// destination keeps its files in dir, and is removed at the end of the test.
func Destinations() map[string]func(t *testing.T, dir string) Destination {
	return map[string]func(*testing.T, string) Destination{
		"postgres": newPostgres,
		"sqlite":   newSQLite,
	}
}

// reader reads rows with the driver of eds, as eds verify does.
type reader struct{ url string }

func (r reader) Read(ctx context.Context, f func(sink.Reader) error) error {
	_, s, err := drivers.Open(ctx, r.url, os.LookupEnv, sink.Env{
		Logger:   slog.New(slog.DiscardHandler),
		Adjusted: func(string, string, string) {},
	})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close(context.WithoutCancel(ctx)) }() // nothing was written
	if s.Reader == nil {
		return fmt.Errorf("the rows of %T cannot be read", s)
	}
	return f(s.Reader)
}
