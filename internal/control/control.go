// Package control is how the operator asks the server that runs with a data directory:
// HTTP over a socket in that directory, which only its owner can open. Requests and
// answers are JSON; the progress of an import is a stream of JSON lines.
//
//	GET /status            how the server is
//	POST /import           begin an import, and watch it
//	GET /import?id=ID      watch an import
//	DELETE /import?id=ID   end an import
//	POST /accept-gap       accept that tables are incomplete
//	POST /verified         end warnings about tables whose rows were found equal
package control

import (
	"context"
	"errors"
	"time"

	"github.com/shopmonkeyus/eds/internal/server"
	"github.com/shopmonkeyus/eds/internal/snapshot"
	"github.com/shopmonkeyus/eds/internal/telemetry"
)

// Handler answers the operator. Its methods are called concurrently.
type Handler interface {
	// Report returns how the server is.
	Report() server.Report
	// RequestImport requests an import with an id, a UUID, into the destination with the
	// given identity; "" is the server's, and another one is a
	// *server.OtherDestinationError. If the server knows an import of the id, it does nothing.
	RequestImport(id, identity string, o snapshot.Options) error
	// WatchImport calls observe with the progress of an import until it ends, and returns
	// its outcome. If ctx ends, the import goes on. observe may take its time: it is called
	// for the tables that have changed since, and never holds the import up.
	WatchImport(ctx context.Context, id string, observe func(snapshot.Progress, snapshot.Totals)) (snapshot.Report, error)
	// CancelImport ends an import.
	CancelImport(id string) error
	// AcceptGap accepts a gap, of all its tables or of one, and returns their names.
	AcceptGap(id, table string) (tables []string, err error)
	// Verified ends warnings about tables whose rows were compared. An error is as of
	// RequestImport.
	Verified(identity string, v server.Verification) error
}

// ErrNoServer says that no server answers for the data directory.
var ErrNoServer = errors.New("no server answers")

// ErrConnectionLost says that the server has ended, or has crashed, before it had answered.
var ErrConnectionLost = errors.New("the server ended the connection")

// Error is what the server answers to a request that fails.
type Error struct {
	Message string `json:"error"`
	// ExitCode is that of the command that asked: 3 if the operator has to change the
	// request or the configuration, else 1.
	ExitCode int `json:"exitCode"`
}

func (e *Error) Error() string { return e.Message }

// ImportRequest is the body of POST /import.
type ImportRequest struct {
	// ID is a UUID that the operator has chosen, so that a request that is sent again after a
	// crash begins no second import; "": the server chooses one.
	ID string `json:"id,omitempty"`
	// Destination is the identity of the destination that the operator means; "": the
	// server's.
	Destination string  `json:"destination,omitempty"`
	Options     Options `json:"options"`
}

// Options are the snapshot.Options that a server accepts.
type Options struct {
	Only        []string  `json:"only,omitempty"`
	CompanyIDs  []string  `json:"companyIds,omitempty"`
	LocationIDs []string  `json:"locationIds,omitempty"`
	TimeOffset  time.Time `json:"timeOffset,omitzero"`
	SchemaOnly  bool      `json:"schemaOnly,omitempty"`
	NoDelete    bool      `json:"noDelete,omitempty"`
	AllowEmpty  bool      `json:"allowEmpty,omitempty"`
	Strict      bool      `json:"strict,omitempty"`
	Parallel    int       `json:"parallel,omitempty"` // tables at a time; 0: the server decides
}

func (o Options) snapshot() snapshot.Options {
	return snapshot.Options{
		Only: o.Only, CompanyIDs: o.CompanyIDs, LocationIDs: o.LocationIDs, TimeOffset: o.TimeOffset, SchemaOnly: o.SchemaOnly,
		NoDelete: o.NoDelete, AllowEmpty: o.AllowEmpty, Strict: o.Strict, Parallel: o.Parallel,
	}
}

// gapRequest is the body of POST /accept-gap.
type gapRequest struct {
	ID    string `json:"id"`
	Table string `json:"table,omitempty"` // "": all of the gap
}

// verifiedRequest is the body of POST /verified.
type verifiedRequest struct {
	Destination string `json:"destination"` // its identity
	server.Verification
}

// gapAnswer is what it is answered with.
type gapAnswer struct {
	Tables []string `json:"tables"`
}

// line is one line of the stream that answers a watched import: first its id, then
// progress, at the end the outcome.
type line struct {
	ID       string           `json:"id,omitempty"`
	Progress *progress        `json:"progress,omitempty"`
	Totals   *snapshot.Totals `json:"totals,omitempty"`
	Report   *report          `json:"report,omitempty"`
	Error    *Error           `json:"error,omitempty"` // beside Report: what of it failed
}

// progress is snapshot.Progress with its error as text.
type progress struct {
	snapshot.Progress
	Err string `json:",omitempty"`
}

func newProgress(p snapshot.Progress) *progress { return &progress{p, text(p.Err)} }

func (p *progress) snapshot() snapshot.Progress {
	p.Progress.Err = failure(p.Err)
	return p.Progress
}

// report is snapshot.Report with errors as text.
type report struct {
	snapshot.Report
	Tables []tableReport
}

type tableReport struct {
	snapshot.TableReport
	Err string `json:",omitempty"`
}

func newReport(r snapshot.Report) *report {
	all := &report{Report: r}
	for _, t := range r.Tables {
		all.Tables = append(all.Tables, tableReport{t, text(t.Err)})
	}
	return all
}

func (r *report) snapshot() snapshot.Report {
	for _, t := range r.Tables {
		t.TableReport.Err = failure(t.Err)
		r.Report.Tables = append(r.Report.Tables, t.TableReport)
	}
	return r.Report
}

// text returns the text of an error without secrets; "" if it is nil.
func text(err error) string {
	if err == nil {
		return ""
	}
	return telemetry.MaskText(err.Error())
}

// failure is the opposite of text.
func failure(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}
