package hq

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/shopmonkeyus/eds/internal/fault"
)

// LatestSchemas returns the latest schema of every object, keyed by object name, as raw JSON from
// HQ.
func (c *Client) LatestSchemas(ctx context.Context) (map[string]json.RawMessage, error) {
	const operation = "fetch the latest schemas"
	r, err := c.exchange(ctx, operation, http.MethodGet, "/v3/schema", nil)
	refused, ok := errors.AsType[*Error](err)
	if ok && refused.Message == "" && refused.definite() && !errors.As(err, new(*Unauthorized)) {
		return nil, fault.Mark(fault.Transient, err) // HQ has schemas, so a proxy answered in its place
	}
	if err != nil {
		return nil, err
	}
	text, err := r.bare()
	if err != nil {
		return nil, err
	}
	var schemas map[string]json.RawMessage
	if err := json.Unmarshal(text, &schemas); err != nil {
		return nil, r.undecodable(err)
	}
	return schemas, nil
}

// Schema returns one version of one object's schema, as raw JSON from HQ. If HQ refuses only this
// version, the error is poison, because no event of that version can be decoded. If HQ refuses the
// API key altogether, the error is fatal.
func (c *Client) Schema(ctx context.Context, object, modelVersion string) (json.RawMessage, error) {
	path := "/v3/schema/" + url.PathEscape(object) + "/" + url.PathEscape(modelVersion)
	r, err := c.exchange(ctx, "fetch a schema version", http.MethodGet, path, nil)
	var text json.RawMessage
	if err == nil {
		text, err = r.bare()
	}
	refused, ok := errors.AsType[*Error](err)
	if !ok || !refused.definite() {
		return text, err
	}
	// A 403 may be about the key, and a response without a message may come from a proxy. The
	// refusal is about the version only if HQ accepts another request.
	if refused.Status == http.StatusForbidden || refused.Message == "" {
		if _, err := c.LatestSchemas(ctx); err != nil {
			return nil, err
		}
	}
	return nil, fault.Mark(fault.Poison, refused)
}

// ExportRequest limits the contents of a snapshot. An empty field sets no limit.
type ExportRequest struct {
	TimeOffset  int64    `json:"timeOffset,omitempty"` // in Unix milliseconds
	CompanyIDs  []string `json:"companyIds,omitempty"`
	LocationIDs []string `json:"locationIds,omitempty"`
	Tables      []string `json:"tables,omitempty"`
}

// The possible values of ExportTable.Status.
const (
	ExportPending   = "Pending"
	ExportCompleted = "Completed"
	ExportFailed    = "Failed"
)

// Export is the state of an export job.
type Export struct {
	Completed bool                   `json:"completed"`
	Tables    map[string]ExportTable `json:"tables"`
}

// ExportTable is the state of the export of one table.
type ExportTable struct {
	Status string   `json:"status"`
	Error  string   `json:"error"`
	URLs   []string `json:"urls"`   // presigned, so they are secrets
	Cursor string   `json:"cursor"` // in Unix nanoseconds
}

// StartExport starts a job that exports a snapshot, and returns the job's id.
func (c *Client) StartExport(ctx context.Context, q ExportRequest) (string, error) {
	var data struct {
		JobID string `json:"jobId"`
	}
	const operation = "start an export"
	err := c.call(ctx, operation, http.MethodPost, "/v3/export/bulk", q, &data)
	if err == nil && data.JobID == "" {
		err = errors.New(operation + ": hq's response has no job id")
	}
	return data.JobID, err
}

// ExportStatus returns the state of an export job, with fresh URLs. If HQ does not know the job,
// NotFound returns true for the error.
func (c *Client) ExportStatus(ctx context.Context, job string) (Export, error) {
	var e Export
	err := c.call(ctx, "ask for the state of the export", http.MethodGet, "/v3/export/bulk/"+url.PathEscape(job), nil, &e)
	return e, err
}
