package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shopmonkeyus/eds/internal/fault"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/state"
)

// maxResumed is the age from which on an import is not resumed: its export shows the
// tables as they were then, and the stream may no longer have the changes since.
const maxResumed = 24 * time.Hour

// resolve decides from which exports to import: that of --job-id, those of an
// import that was interrupted, what stands in --dir, or a new one.
func (r *run) resolve(ctx context.Context) error {
	previous, interrupted, err := r.cfg.State.Import()
	if err != nil {
		return err
	}
	r.imp = state.Import{
		Fingerprint: r.fingerprint(r.cfg.Destination.Masked), Parameters: r.fingerprint(""), Identity: r.cfg.Destination.Identity, Destination: r.cfg.Destination.Masked, Started: time.Now().UTC(),
		Jobs: []state.ImportJob{{ID: r.job}}, Tables: map[string]state.ImportTable{},
	}
	switch {
	case !interrupted:
	case r.same(previous) && r.goesOn(previous.Jobs) && (r.asked() || !old(previous.Jobs)):
		r.imp, r.resumed = previous, true
		if err := r.renew(r.asked()); err != nil {
			return err
		}
	default:
		r.previous = &previous
	}
	if r.downloaded && !r.resumed && r.cfg.JobID == "" {
		return &DirError{r.cfg.DownloadDir, fmt.Sprintf("the export %s was downloaded into it already; load it with --dir, go on with it with --job-id %[1]s, or download into another directory", r.job)}
	}
	for i := range r.imp.Jobs {
		if err := r.open(ctx, &r.imp.Jobs[i]); err != nil {
			return err
		}
	}
	return nil
}

// old reports whether one of the exports is too old to be imported.
func old(jobs []state.ImportJob) bool {
	return slices.ContainsFunc(jobs, func(j state.ImportJob) bool { return j.ID != "" && time.Since(j.Started) > maxResumed })
}

// asked reports whether the options ask for that very export.
func (r *run) asked() bool { return r.cfg.JobID != "" || r.cfg.Dir != "" }

// goesOn reports whether the import can go on with one of the given jobs. Of --dir it
// can only if that is the one.
func (r *run) goesOn(jobs []state.ImportJob) bool {
	if r.cfg.Dir != "" && len(jobs) != 1 {
		return false
	}
	return r.job == "" || slices.ContainsFunc(jobs, func(j state.ImportJob) bool { return j.ID == r.job })
}

// readDirs finds out what the options say of the export, and what is in the directories
// that they name. It asks nobody.
func (r *run) readDirs() (err error) {
	r.job = r.cfg.JobID
	switch {
	case r.cfg.Dir != "":
		r.job, r.local, err = r.readDir(r.cfg.Dir)
	case r.cfg.DownloadDir != "":
		r.job, r.downloaded, err = r.readDownloads(r.cfg.DownloadDir)
	}
	return err
}

// readDir returns the files in dir, and the job that they are of.
func (r *run) readDir(dir string) (job string, local *dirSource, err error) {
	local, err = sourceOfNames(dir)
	if err != nil {
		return "", nil, &DirError{dir, fmt.Sprintf("the export files in it cannot be listed: %v", err)}
	}
	if local == nil {
		return "", nil, &DirError{dir, "there are no export files in it: none of its files is named like " + exportName + "; to download an export into it, name it with --download-dir"}
	}
	m, err := readManifest(dir)
	switch {
	case err != nil:
		return "", nil, &DirError{dir, err.Error()}
	case m.Job == "" && r.cfg.JobID != "":
		return r.cfg.JobID, local, nil
	case m.Job == "":
		path, err := filepath.Abs(dir)
		h := sha256.New()
		fmt.Fprintf(h, "%q", path)
		for _, name := range local.files() {
			fmt.Fprintf(h, " %q", name)
		}
		return dirJob + hex.EncodeToString(h.Sum(nil)[:8]), local, err
	case r.cfg.JobID != "" && r.cfg.JobID != m.Job:
		return "", nil, &DirError{dir, fmt.Sprintf("its files are of the export %s, not of %s", m.Job, r.cfg.JobID)}
	case !m.Complete:
		return "", nil, &DirError{dir, fmt.Sprintf("the download of the export %s into it was interrupted; go on with it with --download-dir", m.Job)}
	}
	local, err = sourceOfManifest(m)
	return m.Job, local, err
}

// readDownloads returns the job whose files are downloaded into dir, "" if nothing was
// yet, and whether the export was complete by then.
func (r *run) readDownloads(dir string) (job string, complete bool, err error) {
	m, err := readManifest(dir)
	if err != nil {
		return "", false, &DirError{dir, err.Error()}
	}
	if m.Job == "" {
		found, err := sourceOfNames(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", false, &DirError{dir, err.Error()}
		}
		if found != nil {
			return "", false, &DirError{dir, "it holds export files, and not which export they are of; load them with --dir, or download into another directory"}
		}
		return r.cfg.JobID, false, nil
	}
	if r.cfg.JobID != "" && r.cfg.JobID != m.Job {
		return "", false, &DirError{dir, fmt.Sprintf("it holds files of the export %s, not of %s; download into another directory", m.Job, r.cfg.JobID)}
	}
	return m.Job, m.Complete, nil
}

// dirJob begins the name under which files of an unknown job are loaded.
const dirJob = "dir-"

// renew adds a new export for tables that those of an interrupted import can
// not bring: HQ failed to export them or, unless a person asked for that very
// export, the server has gone past it since.
func (r *run) renew(asked bool) error {
	snapshots, err := r.cfg.State.Snapshots(r.cfg.Destination)
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
func (r *run) open(ctx context.Context, job *state.ImportJob) error {
	named := job.ID == r.job && r.asked()
	switch {
	case job.ID == "":
		return nil
	case named && r.local != nil && r.local.whole:
		r.sources[job.ID] = r.local
		return nil
	case named && r.local != nil && strings.HasPrefix(job.ID, dirJob):
		r.cfg.Logger.WarnContext(ctx, "importing the files that are in the directory; whether they are all of an export can't be known", "dir", r.cfg.Dir)
		r.sources[job.ID] = r.local
		return nil
	}
	src := &jobSource{hq: r.cfg.HQ, id: job.ID}
	err := r.persist(ctx, "find the export", func() error {
		_, err := src.poll(ctx)
		return err
	})
	switch {
	case err == nil && r.cfg.Dir != "":
		r.sources[job.ID] = listedSource{src}
	case err == nil:
		r.sources[job.ID] = src
	case !hq.NotFound(err):
		return err
	case named && r.local != nil:
		r.cfg.Logger.WarnContext(ctx, "hq has the export no longer; importing its files from the directory", "job", job.ID, "dir", r.cfg.Dir)
		r.sources[job.ID] = r.local
	case named:
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
	switch {
	case r.cfg.Dir != "":
		return r.cfg.Dir
	case r.cfg.DownloadDir != "":
		return r.cfg.DownloadDir
	}
	return r.cfg.State.Path("import", "job-"+url.PathEscape(job))
}
