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

// Destination is a database that a schedule damages while eds writes to it. To torture another
// database, implement this interface and add the implementation to Destinations.
type Destination interface {
	// URL returns the URL of the database, which never changes.
	URL() string
	// Copy makes a consistent copy of the whole database, and returns the name of the copy.
	Copy(ctx context.Context) (string, error)
	// Restore replaces the whole database with the copy of the given name. The copy is kept, so it
	// can be restored again.
	Restore(ctx context.Context, name string) error
	// Empty drops every table, including the tables of eds itself.
	Empty(ctx context.Context) error
	// Drop drops a table, and Truncate deletes the rows of a table. Both do nothing if the table
	// does not exist.
	Drop(ctx context.Context, table string) error
	Truncate(ctx context.Context, table string) error
	// Read calls f with a reader for the rows. The reader is valid until f returns. A table that
	// does not exist has no rows.
	Read(ctx context.Context, f func(sink.Reader) error) error
}

// Destinations returns a function for each kind of destination, keyed by name. The function starts
// a destination with files in dir. The destination is removed at the end of the test.
func Destinations() map[string]func(t *testing.T, dir string) Destination {
	return map[string]func(*testing.T, string) Destination{
		"postgres": newPostgres,
		"sqlite":   newSQLite,
	}
}

// reader reads rows with the driver of eds, in the same way as eds verify.
type reader struct{ url string }

func (r reader) Read(ctx context.Context, f func(sink.Reader) error) error {
	_, s, err := drivers.Open(ctx, r.url, os.LookupEnv, sink.Env{
		Logger:   slog.New(slog.DiscardHandler),
		Adjusted: func(string, string, string) {},
	})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close(context.WithoutCancel(ctx)) }() // an error does not matter, because nothing was written
	if s.Reader == nil {
		return fmt.Errorf("the rows of %T cannot be read", s)
	}
	return f(s.Reader)
}
