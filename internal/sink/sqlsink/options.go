package sqlsink

import (
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Options are the URL options that every SQL destination has.
type Options struct {
	Metadata   bool // metadata=true
	SoftDelete bool // delete=soft; implies Metadata
	// LockTimeout is the time for which eds retries a change of a table that does not get its
	// locks.
	LockTimeout time.Duration
}

// RowOptions declares the options that ReadOptions reads.
var RowOptions = []sink.Option{
	{
		Name: "metadata", Type: sink.Bool{}, Default: "false",
		Help: "`true` adds the columns `_eds_op`, `_eds_version` and `_eds_synced_at` to every table, " +
			"and replaces a row only if the new version is not older",
	},
	{
		Name: "delete", Type: sink.OneOf("hard", "soft"), Default: "hard",
		Help: "`soft` marks a deleted row in the column `_eds_deleted` instead of removing it; implies `metadata=true`",
	},
}

// ReadOptions returns the options that RowOptions declares.
func ReadOptions(v sink.Values) (Options, error) {
	o := Options{Metadata: v.Bool("metadata"), SoftDelete: v.Text("delete") == "soft"}
	if o.SoftDelete && v.Given("metadata") && !o.Metadata {
		return o, fault.Mark(fault.Fatal, errors.New("option delete=soft needs the metadata columns; leave metadata=false out"))
	}
	o.Metadata = o.Metadata || o.SoftDelete
	return o, nil
}

// Timeouts are the maximum times to wait for a lock, and for progress of a statement.
type Timeouts struct{ Lock, Statement time.Duration }

// TimeoutOptions declares the options that ReadTimeouts reads.
var TimeoutOptions = []sink.Option{
	{
		Name: "lock_timeout", Type: sink.Duration{Min: time.Second, Max: time.Hour}, Default: "30s",
		Help: "how long a statement waits for a lock that another session holds, before eds reports the wait and retries",
	},
	{
		Name: "statement_timeout", Type: sink.Duration{Min: time.Second, Max: time.Hour}, Default: "5m",
		Help: "how long the server may make no progress with a statement before eds gives up the connection and retries",
	},
}

// ReadTimeouts returns the options that TimeoutOptions declares.
func ReadTimeouts(v sink.Values) Timeouts {
	return Timeouts{Lock: v.Duration("lock_timeout"), Statement: v.Duration("statement_timeout")}
}
