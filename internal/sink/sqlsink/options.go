package sqlsink

import (
	"errors"
	"net/url"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Options are the choices that every SQL destination offers in its URL.
type Options struct {
	Metadata   bool // metadata=true
	SoftDelete bool // delete=soft; implies Metadata
	// LockTimeout is how long a change of a table that does not get its locks is tried again.
	LockTimeout time.Duration
}

// URLOptions describes the query parameters that ParseOptions reads.
var URLOptions = []sink.Option{
	{Name: "metadata", Default: "false", Description: "true adds the columns _eds_op, _eds_version and _eds_synced_at to every table, and writes a row only where its version is newer"},
	{Name: "delete", Default: "hard", Description: "soft marks a deleted row in the column _eds_deleted instead of removing it; implies metadata=true"},
}

// ParseOptions reads the options of a destination's URL. It leaves other
// parameters to the driver.
func ParseOptions(query url.Values) (Options, error) {
	var o Options
	var err error
	if o.Metadata, err = sink.BoolOf(query, "metadata", false); err != nil {
		return o, fault.Mark(fault.Fatal, err)
	}
	kind, err := sink.ChoiceOf(query, "delete", "hard", "soft")
	if err != nil {
		return o, fault.Mark(fault.Fatal, err)
	}
	if kind == "soft" {
		if query.Get("metadata") != "" && !o.Metadata {
			return o, fault.Mark(fault.Fatal, errors.New("option delete=soft needs the metadata columns; leave metadata=false out"))
		}
		o.SoftDelete, o.Metadata = true, true
	}
	return o, nil
}
