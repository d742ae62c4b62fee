package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/selfupdate"
)

func newDownload(p Process, common *config.CommonFlags) *cobra.Command {
	platform := selfupdate.ThisPlatform()
	cmd := &cobra.Command{
		Use:   "download [VERSION] [FILE]",
		Short: "Download and verify the program of a release",
		Long: `Downloads the archive of a release, by default the newest, verifies its PGP
signature, and only then unpacks the program and writes it to FILE, ready to run. An
existing FILE is replaced in one step. A program for this machine must also print
the right version. FILE is eds-VERSION in the working directory by default.`,
		Example: `  eds download
  eds download 1.2.3 ./eds-1.2.3
  eds download 1.2.3 ./eds.exe --os windows --arch amd64`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 2 {
				return usagef("%s takes a version and a file, but got %q too", cmd.CommandPath(), args[2])
			}
			return nil
		},
	}
	flags := config.BindRelease(cmd.Flags())
	cmd.Flags().StringVar(&platform.OS, "os", platform.OS, "operating `system` of the program: linux, darwin or windows")
	cmd.Flags().StringVar(&platform.Arch, "arch", platform.Arch, "`processor` of the program: amd64 or arm64")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		version, err := "", platform.Check()
		if err == nil && len(args) > 0 {
			version, err = selfupdate.ParseVersion(args[0])
		}
		if err != nil {
			return usageError{err}
		}
		s, err := begin(p, common, "")
		if err != nil {
			return err
		}
		defer s.close()
		u, err := observedUpdater(p, s, flags.Resolve(), false, progressOf(s))
		if err != nil {
			return err
		}
		if version == "" {
			if version, err = newest(cmd.Context(), u); err != nil {
				return err
			}
		}
		file := "eds-" + version
		if len(args) == 2 {
			file = args[1]
		} else if platform.OS == "windows" {
			file += ".exe"
		}
		if err := u.Download(cmd.Context(), version, platform, file); err != nil {
			return err
		}
		_, err = fmt.Fprintf(out(cmd), "%s is eds %s for %s; its signature is valid.\n", file, version, platform)
		return err
	}
	return cmd
}

// newest returns the version of the newest release.
func newest(ctx context.Context, u *selfupdate.Updater) (string, error) {
	version, err := u.Newest(ctx)
	if errors.Is(err, selfupdate.ErrNoNewest) {
		err = usageError{err}
	}
	return version, err
}

// newUpdater returns an updater for the running program. The updater logs its steps.
func newUpdater(p Process, s *setup, r config.Release, allowDowngrade bool) (*selfupdate.Updater, error) {
	doing := ""
	return observedUpdater(p, s, r, allowDowngrade, func(p selfupdate.Progress) {
		if p.Doing != doing {
			doing = p.Doing
			s.logger.Info("upgrade: " + doing)
		}
	})
}

// observedUpdater returns an updater for the running program. The updater reports its progress to
// the function observe.
func observedUpdater(
	p Process, s *setup, r config.Release, allowDowngrade bool, observe func(selfupdate.Progress),
) (*selfupdate.Updater, error) {
	keys, err := releaseKeys(r.KeyFile)
	if err != nil {
		return nil, err
	}
	program := p.Executable
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find the running program: %w", err)
		}
	}
	u, err := selfupdate.New(selfupdate.Options{
		Executable: program, Version: s.build.Version, Keys: keys, Releases: r.URL, AllowDowngrade: allowDowngrade,
		Lookup: p.Lookup, Exists: p.exists, Observe: observe, Logger: s.logger,
	})
	if err != nil {
		return nil, usageError{err}
	}
	return u, nil
}

// releaseKeys returns the public keys that may sign releases. It reads them from the given file. If
// the parameter file is "", it returns the built-in key.
func releaseKeys(file string) (*selfupdate.Keys, error) {
	if file == "" {
		text, err := selfupdate.PublicKey()
		if err != nil {
			return nil, err
		}
		return selfupdate.ParseKeys([]byte(text))
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usagef("--key: %w", err)
	}
	keys, err := selfupdate.ParseKeys(text)
	if err != nil {
		return nil, usagef("--key %s: %w", file, err)
	}
	return keys, nil
}

// exists reports whether a file exists.
func (p Process) exists(path string) bool {
	if p.Exists != nil {
		return p.Exists(path)
	}
	_, err := os.Stat(path)
	return err == nil
}

// progressOf returns a function that shows the progress of an updater, or nil if the command is
// silent.
func progressOf(s *setup) func(selfupdate.Progress) {
	if s.common.Silent {
		return nil
	}
	return (&downloadLines{w: s.screen}).observe
}

// downloadLines writes one line per step. During a download it writes a line every few seconds.
type downloadLines struct {
	w       io.Writer
	step    string
	written time.Time
}

func (l *downloadLines) observe(p selfupdate.Progress) {
	now, whole := time.Now(), p.Total > 0 && p.Done >= p.Total
	if p.Doing == l.step && !whole && now.Sub(l.written) < lineEvery {
		return
	}
	l.step, l.written = p.Doing, now
	switch {
	case p.Done == 0:
		fmt.Fprintf(l.w, "%s\n", p.Doing)
	case p.Total == 0:
		fmt.Fprintf(l.w, "%s: %s\n", p.Doing, size(p.Done))
	default:
		fmt.Fprintf(l.w, "%s: %s of %s\n", p.Doing, size(p.Done), size(p.Total))
	}
}
