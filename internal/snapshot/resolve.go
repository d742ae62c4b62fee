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

// maxResumed is the maximum age of an interrupted import that is resumed. The export of an
// interrupted import has the tables as of the start of the import, and the stream may no longer
// have all later changes.
const maxResumed = 24 * time.Hour

// resolve decides which exports to import: the export of --job-id, the exports of an interrupted
// import, the files in --dir, or a new export.
func (r *importRun) resolve(ctx context.Context) error {
	previous, interrupted, err := r.cfg.State.Import()
	if err != nil {
		return err
	}
	r.imp = state.Import{
		Fingerprint: r.fingerprint(r.cfg.Destination.Masked), Parameters: r.fingerprint(""),
		Identity: r.cfg.Destination.Identity, Destination: r.cfg.Destination.Masked, Started: time.Now().UTC(),
		Jobs: []state.ExportRecord{{ID: r.requestedJob}}, Tables: map[string]state.ImportTable{},
	}
	switch {
	case !interrupted:
	case r.matches(previous) && r.canResume(previous.Jobs) && (r.requestsExport() || !tooOld(previous.Jobs)):
		r.imp, r.resumed = previous, true
		if err := r.reexport(r.requestsExport()); err != nil {
			return err
		}
	default:
		r.previous = &previous
	}
	if r.downloaded && !r.resumed && r.cfg.JobID == "" {
		return &DirError{r.cfg.DownloadDir, fmt.Sprintf("the export %s was downloaded into it already; "+
			"load it with --dir, continue it with --job-id %[1]s, or download into another directory", r.requestedJob)}
	}
	for i := range r.imp.Jobs {
		if err := r.openSource(ctx, &r.imp.Jobs[i]); err != nil {
			return err
		}
	}
	return nil
}

// tooOld reports whether any of the jobs is older than maxResumed.
func tooOld(jobs []state.ExportRecord) bool {
	return slices.ContainsFunc(jobs, func(j state.ExportRecord) bool {
		return j.ID != "" && time.Since(j.Started) > maxResumed
	})
}

// requestsExport reports whether the options name an export, by --job-id or --dir.
func (r *importRun) requestsExport() bool { return r.cfg.JobID != "" || r.cfg.Dir != "" }

// canResume reports whether an import with the given jobs can be resumed. With --dir, an import can
// be resumed only if the import has a single job and the directory holds the files of that job.
func (r *importRun) canResume(jobs []state.ExportRecord) bool {
	if r.cfg.Dir != "" && len(jobs) != 1 {
		return false
	}
	return r.requestedJob == "" || slices.ContainsFunc(jobs, func(j state.ExportRecord) bool { return j.ID == r.requestedJob })
}

// readDirs finds the requested export in the options and in the directories that they name. It does
// not send requests to HQ.
func (r *importRun) readDirs() (err error) {
	r.requestedJob = r.cfg.JobID
	switch {
	case r.cfg.Dir != "":
		r.requestedJob, r.local, err = r.readDir(r.cfg.Dir)
	case r.cfg.DownloadDir != "":
		r.requestedJob, r.downloaded, err = r.readDownloads(r.cfg.DownloadDir)
	}
	return err
}

// readDir returns the export files in dir, and the id of their job. If the job is unknown, it
// generates an id from the file names.
func (r *importRun) readDir(dir string) (job string, local *dirSource, err error) {
	local, err = sourceOfNames(dir)
	if err != nil {
		return "", nil, &DirError{dir, fmt.Sprintf("the export files in it cannot be listed: %v", err)}
	}
	if local == nil {
		return "", nil, &DirError{dir, "there are no export files in it: none of its files is named like " + exportNameForm +
			"; to download an export into it, name it with --download-dir"}
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
		return "", nil, &DirError{dir, fmt.Sprintf("its files belong to the export %s, not to %s", m.Job, r.cfg.JobID)}
	case !m.Complete:
		return "", nil, &DirError{dir, fmt.Sprintf("the download of the export %s into it was interrupted; "+
			"continue it with --download-dir", m.Job)}
	}
	local, err = sourceOfManifest(m)
	return m.Job, local, err
}

// readDownloads returns the job whose files were downloaded into dir, and whether dir has the
// complete export. If nothing was downloaded, it returns the option JobID, which may be "".
func (r *importRun) readDownloads(dir string) (job string, complete bool, err error) {
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
			return "", false, &DirError{
				dir, "it has export files of an unknown export; load them with --dir, or download into another directory",
			}
		}
		return r.cfg.JobID, false, nil
	}
	if r.cfg.JobID != "" && r.cfg.JobID != m.Job {
		return "", false, &DirError{dir, fmt.Sprintf("it has files of the export %s, not of %s; download into another directory",
			m.Job, r.cfg.JobID)}
	}
	return m.Job, m.Complete, nil
}

// dirJob is the prefix of the generated job id for files of an unknown job.
const dirJob = "dir-"

// reexport adds a new export for tables that the exports of an interrupted import cannot provide.
// Either HQ failed to export such a table, or the server has since read the stream beyond the
// export. If the parameter named is true, the operator has named the export, and reexport does
// nothing.
func (r *importRun) reexport(named bool) error {
	snapshots, err := r.cfg.State.Snapshots(r.cfg.Destination)
	if err != nil {
		return err
	}
	past := false
	for name, t := range r.imp.Tables {
		past = past || t.Done && snapshots[name].Begun
	}
	var missing []string
	left := r.unfinished()
	for _, name := range left {
		if past || r.imp.Tables[name].ExportFailed {
			missing = append(missing, name)
		}
	}
	if named || len(missing) == 0 {
		return nil
	}
	if len(missing) == len(r.wanted) {
		missing = nil // nil requests every table
	}
	r.imp.Jobs = append(r.imp.Jobs, state.ExportRecord{Tables: missing})
	return nil
}

// openSource opens the source of a job's files. If HQ no longer has the export of an interrupted
// import, openSource clears the job's id, so that a new export is requested.
func (r *importRun) openSource(ctx context.Context, job *state.ExportRecord) error {
	named := job.ID == r.requestedJob && r.requestsExport()
	switch {
	case job.ID == "":
		return nil
	case named && r.local != nil && r.local.complete:
		r.sources[job.ID] = r.local
		return nil
	case named && r.local != nil && strings.HasPrefix(job.ID, dirJob):
		r.cfg.Logger.WarnContext(
			ctx, "importing the files in the directory; eds cannot check that they are a complete export", "dir", r.cfg.Dir,
		)
		r.sources[job.ID] = r.local
		return nil
	}
	src := &jobSource{hq: r.cfg.HQ, id: job.ID}
	err := r.retry(ctx, "find the export", func() error {
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
		r.cfg.Logger.WarnContext(
			ctx, "hq no longer has the export; importing its files from the directory", "job", job.ID, "dir", r.cfg.Dir,
		)
		r.sources[job.ID] = r.local
	case named:
		return fault.Mark(fault.Fatal, fmt.Errorf("hq does not have the export %q: %w", job.ID, err))
	default:
		r.cfg.Logger.WarnContext(ctx, "hq no longer has the export of the interrupted import; a new one replaces it", "job", job.ID)
		job.ID = ""
	}
	return nil
}

// jobIndexOf returns the index of the last job that exports the table, which is the job that the
// table belongs to. It returns -1 if no job exports the table.
func (r *importRun) jobIndexOf(table string) int {
	for i, job := range slices.Backward(r.imp.Jobs) {
		if job.Tables == nil || slices.Contains(job.Tables, table) {
			return i
		}
	}
	return -1
}

// workDir returns the path of the directory with a job's files.
func (r *importRun) workDir(job string) string {
	switch {
	case r.cfg.Dir != "":
		return r.cfg.Dir
	case r.cfg.DownloadDir != "":
		return r.cfg.DownloadDir
	}
	return r.cfg.State.Path("import", "job-"+url.PathEscape(job))
}
