// Package selfupdate replaces the running program with another version, so that after any
// failure the program on disk starts.
//
// # From a release to the disk
//
// Updater.Stage downloads the archive of a release and its detached PGP signature
// into a new directory beside the program, verifies the signature, only then unpacks the
// one file that it expects, and runs that file to check its version. Until then the
// running program is untouched. Staged.Swap keeps the old program with the suffix ".old"
// and renames the new one into its place.
//
// # Probation
//
// A program that prints its version may still fail. So Swap writes a journal beside the
// program, with the suffix ".upgrade", which puts the new program on probation. Each start,
// before and after a power cut, calls Updater.Recover for the state:
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
// Commit only removes the journal. After Reverted it means that the reason was reported.
// Updater.Attempt is Recover that counts the starts of a program on probation, and rolls
// back after too many.
//
// A server that upgrades calls Stage and Swap, starts the installed program, watches it, and
// commits or rolls back; after either, the installed program has to run, the server's own
// process included. A server that starts calls Attempt; on Probation it continues to watch,
// on Reverted it reports, then commits. It runs even if one of these fails: the installed
// program is complete.
//
// # Power cuts
//
// The state follows from the disk, not only from the journal: the journal has the checksums
// of both programs, and the installed one is compared with them. After each step of Swap
// and Rollback a complete program is installed:
//
//	Swap      journal written   old installed: Recover drops the journal
//	          old kept          the same
//	          new installed     Probation
//	Rollback  reason written    new installed: Recover restores the old one
//	          old installed     Reverted
//
// Windows does not allow replacing a running program, so it is renamed first. A power cut
// between the two renames leaves the old program only under its second name; Recover, run
// from there, restores it.
//
// If the installed program is neither of the two, another installation has replaced it:
// Recover drops the journal.
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
	// ErrContainer: the program runs in a container.
	ErrContainer = errors.New("a container is upgraded by its image")
	// ErrNotWritable: the program's directory cannot be written.
	ErrNotWritable = errors.New("the directory of the program is not writable")
	// ErrCurrent: the requested version is the running one.
	ErrCurrent = errors.New("this version runs already")
	// ErrDowngrade: the requested version is older than the running one.
	ErrDowngrade = errors.New("this version is older than the running one")
	// ErrIncomparable: the running build has no version to compare with.
	ErrIncomparable = errors.New("a build without a version cannot be compared")
	// ErrOnProbation: an earlier upgrade is on probation.
	ErrOnProbation = errors.New("an earlier upgrade is on probation")
	// ErrNoRelease: the release does not exist, or not for this platform.
	ErrNoRelease = errors.New("there is no such release")
	// ErrNoNewest: the releases page does not name the newest release.
	ErrNoNewest = errors.New("give the version, as in 1.2.3")
	// ErrWrongVersion: the program in an archive has another version than the archive.
	ErrWrongVersion = errors.New("the archive contains another version")
	// ErrNoOld: there is no old program to go back to.
	ErrNoOld = errors.New("there is no old program to go back to")
)

// Options configure an Updater.
type Options struct {
	// Executable is the path of the program to replace. Symbolic links are followed.
	Executable string
	// Version is the running version.
	Version string
	// Platform is the program's platform; the zero Platform means this one.
	Platform Platform
	// Keys are the public keys of releases.
	Keys *Keys
	// Releases is the base URL of releases; "" means DefaultReleases. It is https, or http
	// on this machine.
	Releases string
	// AllowDowngrade accepts an older version, and the running one.
	AllowDowngrade bool
	// HTTP makes the requests; nil means a client that uses the proxy settings
	// of the environment. New replaces its rules for redirects.
	HTTP *http.Client
	// Lookup finds environment variables, Exists reports whether a file exists. They
	// detect a container. nil finds nothing.
	Lookup func(name string) (string, bool)
	Exists func(path string) bool
	// Observe is called at each step and during downloads, serially; may be nil.
	Observe func(Progress)
	// Logger gets a line for each repeated attempt.
	Logger *slog.Logger
}

// Progress is the current step of an Updater.
type Progress struct {
	Doing string // "download eds_Linux_x86_64.tar.gz", "verify the signature"
	// Done and Total count the bytes of a download; both are 0 for other steps, and Total
	// is 0 if the server does not announce it.
	Done, Total int64
}

// Updater replaces one program. It is not safe for concurrent use.
type Updater struct {
	o      Options
	target string // the program, links resolved
	bounds bounds
	fetch  fetcher
	// renameFirst: a running program must be renamed before another can take its name.
	renameFirst bool
	// step runs one change of the disk; tests put power cuts around it.
	step func(name string, change func() error) error
	now  func() time.Time
}

// New returns an Updater. It touches nothing.
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
	u.fetch = newFetcher(o)
	return u, nil
}

// bounds limit the disk space and memory for an archive, in bytes.
type bounds struct {
	signature, archive int64
	program            int64 // the program itself
	unpacked           int64 // everything in an archive
	answer             int64 // output of "eds version"
	patience           time.Duration
}

func defaultBounds() bounds {
	return bounds{
		signature: 64 << 10, archive: 512 << 20, program: 1 << 30, unpacked: 2 << 30, answer: 4 << 10,
		patience: 30 * time.Second,
	}
}

// Target returns the path of the program, links resolved.
func (u *Updater) Target() string { return u.target }

// Old returns the path of the replaced program.
func (u *Updater) Old() string { return u.target + ".old" }

func (u *Updater) journalPath() string { return u.target + ".upgrade" }

func (u *Updater) dir() string { return filepath.Dir(u.target) }

// Plan has the steps of an upgrade.
type Plan struct {
	From, To     string // versions
	Archive      string // URL
	Signature    string // URL
	Program, Old string // paths: the program, and its copy of the old version
	Downgrade    bool
	Signers      []string // fingerprints
	Page         string   // the page that lists releases, "" if unknown
}

// Plan checks, without the network, whether the program may be upgraded to a version: it
// runs in no container, the directory is writable, no other upgrade is on probation, and
// the version is newer.
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

// allowContainer is a variable that, set to "true", declares that this container keeps its
// disk, as those of LXC and systemd-nspawn do.
const allowContainer = "EDS_UPGRADE_IN_CONTAINER"

// container returns the evidence that this is a container, or "".
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

// writable checks that files can be created and renamed beside the program.
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

// cause returns the cause of an error, without the path of a temporary file.
func cause(err error) error {
	if path := new(os.PathError); errors.As(err, &path) {
		return path.Err
	}
	return err
}

// scratchPattern matches the temporary directories of upgrades.
func (u *Updater) scratchPattern() string { return "." + filepath.Base(u.target) + "-upgrade-*" }
