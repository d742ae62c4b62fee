// Package control lets the operator control the server that runs with a data directory: by
// HTTP over a socket in that directory, which only its owner can open. Requests and responses
// are JSON; the progress of an import is a stream of JSON lines.
//
//	GET /status            the state of the server
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

// Handler handles requests of the operator. Its methods are called concurrently.
type Handler interface {
	// Report returns the state of the server.
	Report() server.Report
	// RequestImport requests an import with the given id, a UUID, into the destination with
	// the given identity; "" is the server's. Another destination is a
	// *server.OtherDestinationError. If an import with this id exists, it does nothing.
	RequestImport(id, identity string, o snapshot.Options) error
	// WatchImport calls observe with the progress of an import until it ends, and returns
	// its outcome. If ctx ends, the import continues. A slow observe does not delay the
	// import: each call is for a table that has changed since the last one.
	WatchImport(ctx context.Context, id string, observe func(snapshot.Progress, snapshot.Totals)) (snapshot.Report, error)
	// CancelImport ends an import.
	CancelImport(id string) error
	// AcceptGap accepts a gap, of one table or, if table is "", of all its tables. It returns
	// their names.
	AcceptGap(id, table string) (tables []string, err error)
	// Verified ends warnings about tables whose rows were found equal. Its errors are those
	// of RequestImport.
	Verified(identity string, v server.Verification) error
}

// ErrNoServer says that no server answers for the data directory.
var ErrNoServer = errors.New("no server answers")

// ErrConnectionLost says that the server ended or crashed before it responded.
var ErrConnectionLost = errors.New("the server ended the connection")

// Error is the response to a request that fails.
type Error struct {
	Message string `json:"error"`
	// ExitCode is the exit code of the operator's command: 3 if the operator has to change
	// the request or the configuration, else 1.
	ExitCode int `json:"exitCode"`
}

func (e *Error) Error() string { return e.Message }

// ImportRequest is the body of POST /import.
type ImportRequest struct {
	// ID is a UUID chosen by the client. A request that is sent again after a crash begins no
	// second import. "": the server chooses the id.
	ID string `json:"id,omitempty"`
	// Destination is the identity of the requested destination; "": the server's.
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

// gapResponse is the response to POST /accept-gap.
type gapResponse struct {
	Tables []string `json:"tables"`
}

// importUpdate is one line in the stream of a watched import: first its id, then progress,
// at the end the outcome.
type importUpdate struct {
	ID       string           `json:"id,omitempty"`
	Progress *progressUpdate  `json:"progress,omitempty"`
	Totals   *snapshot.Totals `json:"totals,omitempty"`
	Report   *importReport    `json:"report,omitempty"`
	Error    *Error           `json:"error,omitempty"` // with Report: the failures in it
}

// progressUpdate is snapshot.Progress with its error as text.
type progressUpdate struct {
	snapshot.Progress
	Err string `json:",omitempty"`
}

func newProgressUpdate(p snapshot.Progress) *progressUpdate {
	return &progressUpdate{p, maskedText(p.Err)}
}

func (p *progressUpdate) snapshot() snapshot.Progress {
	p.Progress.Err = textError(p.Err)
	return p.Progress
}

// importReport is snapshot.Report with errors as text.
type importReport struct {
	snapshot.Report
	Tables []importReportTable
}

type importReportTable struct {
	snapshot.TableReport
	Err string `json:",omitempty"`
}

func newImportReport(r snapshot.Report) *importReport {
	all := &importReport{Report: r}
	for _, t := range r.Tables {
		all.Tables = append(all.Tables, importReportTable{t, maskedText(t.Err)})
	}
	return all
}

func (r *importReport) snapshot() snapshot.Report {
	for _, t := range r.Tables {
		t.TableReport.Err = textError(t.Err)
		r.Report.Tables = append(r.Report.Tables, t.TableReport)
	}
	return r.Report
}

// maskedText returns the text of an error without secrets; "" if the error is nil.
func maskedText(err error) string {
	if err == nil {
		return ""
	}
	return telemetry.MaskText(err.Error())
}

// textError is the inverse of maskedText.
func textError(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}
