package sqlsink

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Options are the choices that every SQL destination offers in its URL.
type Options struct {
	Metadata   bool // metadata=true
	SoftDelete bool // delete=soft; implies Metadata
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
	metadata := query.Get("metadata")
	if metadata != "" {
		var err error
		if o.Metadata, err = strconv.ParseBool(metadata); err != nil {
			return o, fault.Mark(fault.Fatal, errors.New("option metadata is neither true nor false"))
		}
	}
	switch d := query.Get("delete"); d {
	case "", "hard":
	case "soft":
		if metadata != "" && !o.Metadata {
			return o, fault.Mark(fault.Fatal, errors.New("option delete=soft needs the metadata columns; leave metadata=false out"))
		}
		o.SoftDelete, o.Metadata = true, true
	default:
		return o, fault.Mark(fault.Fatal, fmt.Errorf("option delete is %q; it should be hard or soft", d))
	}
	return o, nil
}
