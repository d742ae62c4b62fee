// Package selfupdate replaces the running program with another version. After any failure, the
// program on disk is complete and can be started.
//
// # From a release to the disk
//
// Updater.Stage downloads the archive of a release and its detached PGP signature into a new
// directory beside the program. It verifies the signature. Only then does it unpack the expected
// file from the archive, and run that file to check its version. Stage does not touch the running
// program. Staged.Swap keeps the old program with the suffix ".old", and renames the new program to
// the installed name.
//
// # Probation
//
// A program that prints its version may still fail in other ways. Therefore Swap writes a
// journal, which puts the new program on probation. The journal is a file beside the program,
// with the suffix ".upgrade". Each start, even after a power cut, calls Updater.Recover, which
// returns the state:
//
//	Settled    there is no journal, or an outdated one was removed
//	Probation  the installed program is the new one, on probation
//	Reverted   the old program is installed again; Status.Reason says why
//
// The transitions are:
//
//	           Swap              Commit
//	Settled ----------> Probation -----> Settled
//	   ^                    |
//	   |                    | Rollback
//	   |      Commit        v
//	   +---------------- Reverted
//
// Commit only removes the journal. In the state Reverted, Commit means that the reason was
// reported. Updater.Attempt calls Recover, but also counts the starts of a program on
// probation, and rolls back after too many starts.
//
// A server that upgrades calls Stage and Swap, starts the installed program, watches it, and
// calls Commit or Rollback. After either call every process must run the installed program,
// including the server's own process. A starting server calls Attempt. In the state Probation
// it continues to watch the program. In the state Reverted it reports the reason, then calls
// Commit. The server runs even if one of these calls fails, because the installed program is
// complete.
//
// # Power cuts
//
// The state depends on the programs on disk, not only on the journal. The journal has the
// checksums of both programs, and Recover compares them with the checksum of the installed
// program. After each step of Swap and Rollback a complete program is installed:
//
//	Swap      journal written   old installed: Recover drops the journal
//	          old kept          old installed: Recover drops the journal
//	          new installed     Probation
//	Rollback  reason written    new installed: Recover restores the old one
//	          old installed     Reverted
//
// Windows does not allow replacing a running program, so the old program is renamed first.
// After a power cut between the two renames, only the name with the suffix ".old" exists. If
// the operator runs that file, Recover restores the installed name.
//
// If the installed program is neither of the two programs, another installation has replaced
// it, and Recover removes the journal.
package selfupdate

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Errors that a caller may want to distinguish.
var (
	// ErrContainer means that the program runs in a container.
	ErrContainer = errors.New("a container is upgraded by its image")
	// ErrNotWritable means that no files can be created in the program's directory.
	ErrNotWritable = errors.New("the directory of the program is not writable")
	// ErrCurrent means that the requested version is the running one.
	ErrCurrent = errors.New("this version runs already")
	// ErrDowngrade means that the requested version is older than the running one.
	ErrDowngrade = errors.New("this version is older than the running one")
	// ErrIncomparable means that the running program was built without a version.
	ErrIncomparable = errors.New("a build without a version cannot be compared")
	// ErrOnProbation means that an earlier upgrade is still on probation.
	ErrOnProbation = errors.New("an earlier upgrade is on probation")
	// ErrNoRelease means that the release does not exist, or has no archive for the platform.
	ErrNoRelease = errors.New("there is no such release")
	// ErrNoNewest means that the releases page does not name the newest release.
	ErrNoNewest = errors.New("give the version, as in 1.2.3")
	// ErrWrongVersion means that the program in an archive prints a version other than the
	// requested one.
	ErrWrongVersion = errors.New("the archive contains another version")
	// ErrNoOld means that the replaced program does not exist or was changed, so that a
	// rollback is impossible.
	ErrNoOld = errors.New("there is no old program to go back to")
)

// Options configure an Updater.
type Options struct {
	// Executable is the path of the program to replace. Symbolic links are followed.
	Executable string
	// Version is the version of the running program.
	Version string
	// Platform is the program's platform. The zero Platform means ThisPlatform.
	Platform Platform
	// Keys are the public keys that are trusted to sign releases. They are required.
	Keys *Keys
	// Releases is the base URL of releases, or "" for DefaultReleases. Its scheme must be
	// https, except for a server on this machine.
	Releases string
	// AllowDowngrade allows upgrades to an older version, and to the running one.
	AllowDowngrade bool
	// HTTP makes the requests. If it is nil, New creates a client that uses the proxy settings
	// of the environment. The client's CheckRedirect is not used.
	HTTP *http.Client
	// Lookup returns an environment variable, and Exists reports whether a file exists. Both
	// functions are used to detect a container. A nil function finds nothing.
	Lookup func(name string) (string, bool)
	Exists func(path string) bool
	// Observe is called at each step and during downloads, by one goroutine at a time. It may
	// be nil.
	Observe func(Progress)
	// Logger receives a record for each failed attempt that is retried.
	Logger *slog.Logger
}

// Progress is the current step of an Updater.
type Progress struct {
	Doing string // "download eds_Linux_x86_64.tar.gz", "verify the signature"
	// Done and Total count the bytes of a download. Both are 0 for other steps. Total is 0 if
	// the server does not announce the size.
	Done, Total int64
}

// Updater replaces one program. It is not safe for concurrent use.
type Updater struct {
	o      Options
	target string // path of the program, with symbolic links resolved
	bounds bounds
	fetch  releaseDownloader
	// renameFirst is set if a running program must be renamed before another file can take the
	// program's name.
	renameFirst bool
	// step performs one change on disk. Tests replace step to simulate power cuts before and after
	// a change.
	step func(name string, change func() error) error
	now  func() time.Time
}

// New returns an Updater. It changes nothing on disk.
func New(o Options) (*Updater, error) {
	if o.Platform == (Platform{}) {
		o.Platform = ThisPlatform()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(Progress) {}
	}
	if o.Lookup == nil {
		o.Lookup = func(string) (string, bool) { return "", false }
	}
	if o.Exists == nil {
		o.Exists = func(string) bool { return false }
	}
	if o.Keys == nil {
		return nil, errors.New("prepare an upgrade: no public key of releases is set")
	}
	base, err := releasesURL(o.Releases)
	if err != nil {
		return nil, err
	}
	o.Releases = base
	target, err := filepath.EvalSymlinks(o.Executable)
	if err != nil {
		return nil, fmt.Errorf("find the program to upgrade: %w", err)
	}
	if target, err = filepath.Abs(target); err != nil {
		return nil, fmt.Errorf("find the program to upgrade: %w", err)
	}
	u := &Updater{
		o: o, target: target, bounds: defaultBounds(), renameFirst: runtime.GOOS == "windows", now: time.Now,
		step: func(_ string, change func() error) error { return change() },
	}
	u.fetch = newReleaseDownloader(o)
	return u, nil
}

// bounds are limits for the download and use of an archive, in bytes except for patience.
type bounds struct {
	signature, archive int64
	program            int64 // size of the program
	unpacked           int64 // total size of the files in an archive
	answer             int64 // output of "eds version"
	patience           time.Duration
}

func defaultBounds() bounds {
	return bounds{
		signature: 64 << 10, archive: 512 << 20, program: 1 << 30, unpacked: 2 << 30, answer: 4 << 10,
		patience: 30 * time.Second,
	}
}

// Target returns the path of the program, with symbolic links resolved.
func (u *Updater) Target() string { return u.target }

// Old returns the path at which Swap keeps the replaced program.
func (u *Updater) Old() string { return u.target + ".old" }

func (u *Updater) journalPath() string { return u.target + ".upgrade" }

func (u *Updater) dir() string { return filepath.Dir(u.target) }

// Plan describes an upgrade.
type Plan struct {
	From, To     string // versions
	Archive      string // URL
	Signature    string // URL
	Program, Old string // path of the program, and path at which the old version is kept
	Downgrade    bool
	Signers      []string // fingerprints
	Page         string   // URL of the page that lists releases, or "" if unknown
}

// Plan checks without network access whether the program may be upgraded to a version. The
// program must not run in a container, its directory must be writable, no other upgrade may be
// on probation, and the version must be newer.
func (u *Updater) Plan(version string) (Plan, error) {
	version, err := ParseVersion(version)
	if err != nil {
		return Plan{}, err
	}
	if why := u.container(); why != "" {
		return Plan{}, fmt.Errorf("%w, and this is one (%s): run the image of %s instead", ErrContainer, why, version)
	}
	status, err := u.Status()
	if err != nil {
		return Plan{}, err
	}
	if status.State == Probation {
		return Plan{}, fmt.Errorf("%w: %s, since %s; let it run for a while, accept it, or go back to %s",
			ErrOnProbation, status.To, status.Began.Format(time.RFC3339), status.From)
	}
	older, err := u.compare(version)
	if err != nil {
		return Plan{}, err
	}
	if err := u.writable(); err != nil {
		return Plan{}, err
	}
	archive := u.archiveURL(version, u.o.Platform)
	return Plan{
		From: u.o.Version, To: version, Archive: archive, Signature: archive + signatureSuffix,
		Program: u.target, Old: u.Old(),
		Downgrade: older, Signers: u.o.Keys.Fingerprints(), Page: u.page(),
	}, nil
}

// allowContainer is the name of an environment variable. The value "true" declares that this
// container keeps its disk, as the containers of LXC and systemd-nspawn do.
const allowContainer = "EDS_UPGRADE_IN_CONTAINER"

// container returns the evidence that the program runs in a container, or "" if there is none.
func (u *Updater) container() string {
	if keeps, _ := u.o.Lookup(allowContainer); keeps == "true" {
		return ""
	}
	for _, name := range []string{"KUBERNETES_SERVICE_HOST", "container"} {
		if value, ok := u.o.Lookup(name); ok && value != "" {
			return name + " is set"
		}
	}
	for _, path := range []string{"/.dockerenv", "/run/.containerenv"} {
		if u.o.Exists(path) {
			return path + " exists"
		}
	}
	return ""
}

// writable checks that files can be created in the program's directory.
func (u *Updater) writable() error {
	probe, err := os.MkdirTemp(u.dir(), u.scratchPattern())
	if err != nil {
		return fmt.Errorf("%w: %s: %w; upgrade as a user who may write there (sudo), or install eds in a directory of its own",
			ErrNotWritable, u.dir(), cause(err))
	}
	if err := os.Remove(probe); err != nil {
		return fmt.Errorf("check that %s is writable: %w", u.dir(), err)
	}
	return nil
}

// cause returns the cause of an error, without the path that an os.PathError contains. That
// path may be the path of a temporary file.
func cause(err error) error {
	if path := new(os.PathError); errors.As(err, &path) {
		return path.Err
	}
	return err
}

// scratchPattern returns the name pattern of an upgrade's temporary files and directories.
func (u *Updater) scratchPattern() string { return "." + filepath.Base(u.target) + "-upgrade-*" }
