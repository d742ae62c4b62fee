// Package selfupdate puts a newer program in the place of the one that runs, such
// that whatever happens, what is on disk starts.
//
// # From a release to the disk
//
// Updater.Stage downloads the archive of a release and its detached PGP signature
// into a directory of their own beside the program, verifies the signature, only
// then unpacks the one file that it expects, and asks that file for its version.
// Nothing that runs is touched until then. Staged.Swap keeps the old program under
// its name with ".old" and renames the new one into its place.
//
// # Probation
//
// A program that says its version need not be one that works. So Swap leaves a
// note beside the program, under its name with ".upgrade", which says that the new
// one is on probation. Whoever runs the program, before and after a power cut,
// asks Updater.Recover where things stand:
//
//	Settled    there is no note, or it was outdated and has been removed
//	Probation  the program in place is the new one and has yet to prove itself
//	Reverted   the old program is in place again; Standing.Reason says why
//
// and moves on from there:
//
//	           Swap              Commit
//	Settled ----------> Probation -----> Settled
//	   ^                    |
//	   |                    | Rollback
//	   |      Commit        v
//	   +---------------- Reverted
//
// Commit removes nothing but the note. After Reverted it means that the reason has
// been reported. Updater.Attempt is Recover that counts the starts of a program on
// probation, and goes back where they are too many.
//
// A server that is asked to upgrade stages, swaps, starts the program in place, watches
// it, and commits or rolls back; after either it is the program in place that shall run,
// the server's own process included. A server that starts calls Attempt; on Probation it
// goes on watching, on Reverted it reports, then commits. An error of any of these is no
// reason not to run: what is in place is whole.
//
// # Power cuts
//
// The state is not what the note says but what the disk holds: the note has the
// checksums of both programs, and the one in place is compared with them. Each step
// of Swap and Rollback leaves a whole program in place:
//
//	Swap      note written      old in place: Recover drops the note
//	          old kept          the same
//	          new in place      Probation
//	Rollback  reason noted      new in place: Recover puts the old one back
//	          old in place      Reverted
//
// Where a program that runs can't be replaced, which is on Windows, it is renamed first.
// A power cut between the two renames leaves the old program under its second name alone;
// Recover, run from there, puts it back.
//
// A program in place that is neither of the two was put there by somebody else, who
// knows better: Recover drops the note.
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

// Errors that a caller may want to tell apart.
var (
	// ErrContainer says that the program runs in a container.
	ErrContainer = errors.New("a container is upgraded by its image")
	// ErrNotWritable says that the program's directory can't be written to.
	ErrNotWritable = errors.New("the directory of the program is not writable")
	// ErrCurrent says that the version asked for is the one that runs.
	ErrCurrent = errors.New("this version runs already")
	// ErrDowngrade says that the version asked for is older than the one that runs.
	ErrDowngrade = errors.New("this version is older than the one that runs")
	// ErrIncomparable says that nobody knows whether the version asked for is newer.
	ErrIncomparable = errors.New("a build without a version can not be compared")
	// ErrOnProbation says that an earlier upgrade has yet to prove itself.
	ErrOnProbation = errors.New("an earlier upgrade is on probation")
	// ErrNoRelease says that there is no such release, or none for this platform.
	ErrNoRelease = errors.New("there is no such release")
	// ErrNoNewest says that nobody knows which release is the newest.
	ErrNoNewest = errors.New("name the version, as in 1.2.3")
	// ErrWrongVersion says that the program in an archive is not of the archive's version.
	ErrWrongVersion = errors.New("the archive holds another version")
	// ErrNoOld says that there is no old program to go back to.
	ErrNoOld = errors.New("there is no old program to go back to")
)

// Options configure an Updater.
type Options struct {
	// Executable is the path of the program to replace. Symbolic links are followed.
	Executable string
	// Version is the one that runs.
	Version string
	// Platform is what the program runs on; the zero Platform is this one.
	Platform Platform
	// Keys are those that releases may be signed by.
	Keys *Keys
	// Releases is the URL below which releases are; "" is DefaultReleases.
	// It is https, or http on this machine.
	Releases string
	// AllowDowngrade accepts an older version, and the one that runs.
	AllowDowngrade bool
	// HTTP makes the requests; nil means a client that heeds the proxy settings
	// of the environment. Its rules for redirects are replaced.
	HTTP *http.Client
	// Lookup finds environment variables, Exists tells whether there is a file.
	// They are asked whether this is a container. nil finds nothing.
	Lookup func(name string) (string, bool)
	Exists func(path string) bool
	// Observe is told what is done, one call at a time. nil is told nothing.
	Observe func(Progress)
	// Logger is told of attempts that are repeated.
	Logger *slog.Logger
}

// Progress says what an Updater is doing.
type Progress struct {
	Doing string // "download eds_Linux_x86_64.tar.gz", "verify the signature"
	// Done and Total count the bytes of a download; both are 0 for other work, and
	// Total is where the server does not say.
	Done, Total int64
}

// Updater replaces one program. It is not safe for concurrent use.
type Updater struct {
	o      Options
	target string // the program, links resolved
	bounds bounds
	fetch  fetcher
	// aside: a program that runs must be renamed before another takes its name.
	aside bool
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
		return nil, errors.New("prepare an upgrade: no key is given that releases are signed by")
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
		o: o, target: target, bounds: defaultBounds(), aside: runtime.GOOS == "windows", now: time.Now,
		step: func(_ string, change func() error) error { return change() },
	}
	u.fetch = newFetcher(o)
	return u, nil
}

// bounds keep an archive from filling the disk or the memory, in bytes.
type bounds struct {
	signature, archive int64
	program            int64 // the program itself
	unpacked           int64 // everything in an archive
	answer             int64 // what a program says of its version
	patience           time.Duration
}

func defaultBounds() bounds {
	return bounds{signature: 64 << 10, archive: 512 << 20, program: 1 << 30, unpacked: 2 << 30, answer: 4 << 10, patience: 30 * time.Second}
}

// Target returns the path of the program that is replaced, links resolved.
func (u *Updater) Target() string { return u.target }

// Old returns where the program is kept that was replaced.
func (u *Updater) Old() string { return u.target + ".old" }

func (u *Updater) notePath() string { return u.target + ".upgrade" }

func (u *Updater) dir() string { return filepath.Dir(u.target) }

// Plan says what an upgrade would do.
type Plan struct {
	From, To     string // versions
	Archive      string // URL
	Signature    string // URL
	Program, Old string // paths: what is replaced, and where it is kept
	Downgrade    bool
	Signers      []string // fingerprints
	Page         string   // the page that lists releases, "" where unknown
}

// Plan checks whether the program may be replaced by a version, without asking the
// network: it is no container, the directory is writable, no other upgrade is on
// probation, and the version is newer.
func (u *Updater) Plan(version string) (Plan, error) {
	version, err := ParseVersion(version)
	if err != nil {
		return Plan{}, err
	}
	if why := u.container(); why != "" {
		return Plan{}, fmt.Errorf("%w, and this is one (%s): run the image of %s instead", ErrContainer, why, version)
	}
	standing, err := u.Standing()
	if err != nil {
		return Plan{}, err
	}
	if standing.State == Probation {
		return Plan{}, fmt.Errorf("%w: %s, since %s; let it run for a while, accept it, or go back to %s", ErrOnProbation, standing.To, standing.Began.Format(time.RFC3339), standing.From)
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
		From: u.o.Version, To: version, Archive: archive, Signature: archive + signatureSuffix, Program: u.target, Old: u.Old(),
		Downgrade: older, Signers: u.o.Keys.Fingerprints(), Page: u.page(),
	}, nil
}

// allowContainer names the variable that, set to "true", says that this container
// keeps its disk, as those of LXC and systemd-nspawn do.
const allowContainer = "EDS_UPGRADE_IN_CONTAINER"

// container returns what shows that this is a container, or "".
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

// writable checks that files can be made and renamed beside the program.
func (u *Updater) writable() error {
	probe, err := os.MkdirTemp(u.dir(), u.scratchPattern())
	if err != nil {
		return fmt.Errorf("%w: %s: %w; upgrade as a user who may write there (sudo), or install eds in a directory of its own", ErrNotWritable, u.dir(), cause(err))
	}
	if err := os.Remove(probe); err != nil {
		return fmt.Errorf("check that %s is writable: %w", u.dir(), err)
	}
	return nil
}

// cause returns what is wrong, without the name of a file that means nothing to
// its reader.
func cause(err error) error {
	if path := new(os.PathError); errors.As(err, &path) {
		return path.Err
	}
	return err
}

// scratchPattern names directories that belong to one upgrade.
func (u *Updater) scratchPattern() string { return "." + filepath.Base(u.target) + "-upgrade-*" }
