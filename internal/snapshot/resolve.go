package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/state"
)

// resolve decides from which exports to import: that of --job-id, those of an
// import that was interrupted, what stands in --dir, or a new one.
func (r *run) resolve(ctx context.Context) error {
	previous, interrupted, err := r.cfg.State.Import()
	if err != nil {
		return err
	}
	job, local, err := r.given()
	if err != nil {
		return err
	}
	r.imp = state.Import{
		Fingerprint: r.fingerprint(), Destination: r.cfg.Destination, Started: time.Now().UTC(),
		Jobs: []state.ImportJob{{ID: job}}, Tables: map[string]state.ImportTable{},
	}
	switch {
	case !interrupted:
	case previous.Fingerprint == r.imp.Fingerprint && (job == "" || slices.ContainsFunc(previous.Jobs, func(j state.ImportJob) bool { return j.ID == job })):
		r.imp, r.resumed = previous, true
		if err := r.renew(job != ""); err != nil {
			return err
		}
	default:
		r.previous = &previous
	}
	for i := range r.imp.Jobs {
		if err := r.open(ctx, &r.imp.Jobs[i], job, local); err != nil {
			return err
		}
	}
	return nil
}

// given returns the job that a person named, by --job-id or by a directory with
// files of one. The source is set where the directory says all there is to say.
func (r *run) given() (job string, local *dirSource, err error) {
	job = r.cfg.JobID
	if r.cfg.Dir == "" {
		return job, nil, nil
	}
	m, err := readManifest(r.cfg.Dir)
	if err != nil {
		return "", nil, err
	}
	if m.Job != "" && (job == "" || job == m.Job) {
		if m.Complete {
			local, err = sourceOfManifest(m)
		}
		return m.Job, local, err
	}
	if job != "" {
		return job, nil, nil
	}
	if local, err = sourceOfNames(r.cfg.Dir); err != nil || local == nil {
		return "", nil, err
	}
	path, err := filepath.Abs(r.cfg.Dir)
	sum := sha256.Sum256([]byte(path))
	return dirJob + hex.EncodeToString(sum[:8]), local, err
}

// dirJob begins the name under which files of an unknown job are loaded.
const dirJob = "dir-"

// renew adds a new export for tables that those of an interrupted import can
// not bring: HQ failed to export them or, unless a person asked for that very
// export, the server has gone past it since.
func (r *run) renew(asked bool) error {
	snapshots, err := r.cfg.State.Snapshots()
	if err != nil {
		return err
	}
	past := false
	for name, t := range r.imp.Tables {
		past = past || t.Done && snapshots[name].Begun
	}
	var anew []string
	left := r.unfinished()
	for _, name := range left {
		if past || r.imp.Tables[name].ExportFailed {
			anew = append(anew, name)
		}
	}
	if asked || len(anew) == 0 {
		return nil
	}
	if len(anew) == len(r.wanted) {
		anew = nil // every table: the export's own default
	}
	r.imp.Jobs = append(r.imp.Jobs, state.ImportJob{Tables: anew})
	return nil
}

// open finds out what a job has. A job that HQ has forgotten is done over.
func (r *run) open(ctx context.Context, job *state.ImportJob, asked string, local *dirSource) error {
	if job.ID == "" {
		return nil
	}
	if strings.HasPrefix(job.ID, dirJob) && local != nil {
		r.cfg.Logger.WarnContext(ctx, "importing the files that are in the directory; whether they are all of an export can't be known", "dir", r.cfg.Dir)
		r.sources[job.ID] = local
		return nil
	}
	src := &jobSource{hq: r.cfg.HQ, id: job.ID}
	err := r.persist(ctx, "find the export", func() error {
		_, err := src.poll(ctx)
		return err
	})
	switch {
	case err == nil:
		r.sources[job.ID] = src
	case !hq.NotFound(err):
		return err
	case job.ID == asked && local != nil:
		r.cfg.Logger.WarnContext(ctx, "hq has the export no longer; importing its files from the directory", "job", job.ID, "dir", r.cfg.Dir)
		r.sources[job.ID] = local
	case job.ID == asked:
		return fault.Mark(fault.Fatal, fmt.Errorf("hq has no export %q (any longer): %w", job.ID, err))
	default:
		r.cfg.Logger.WarnContext(ctx, "hq has the export of the interrupted import no longer; a new one takes its place", "job", job.ID)
		job.ID = ""
	}
	return nil
}

// owner returns the index of the job that a table belongs to, the last one that
// is for it, or -1.
func (r *run) owner(table string) int {
	for i, job := range slices.Backward(r.imp.Jobs) {
		if job.Tables == nil || slices.Contains(job.Tables, table) {
			return i
		}
	}
	return -1
}

// workDir returns where the files of a job are.
func (r *run) workDir(job string) string {
	if r.cfg.Dir != "" {
		return r.cfg.Dir
	}
	return r.cfg.State.Path("import", "job-"+url.PathEscape(job))
}
