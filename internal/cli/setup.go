package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"runtime/pprof"

	"github.com/spf13/cobra"

	"github.com/shopmonkeyus/eds/internal/build"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/hq"
	"github.com/shopmonkeyus/eds/internal/telemetry"
	"github.com/shopmonkeyus/eds/internal/tlshosts"
)

// setup holds the values that most commands need at their start, for example the resolved common
// flags, the configuration file and a logger.
type setup struct {
	common config.Common
	file   config.File
	build  build.Info
	screen *screen // also for output other than the log
	logger *slog.Logger
	log    *telemetry.LogFile // nil if there is no log file
	looks  bool               // the command must not leave anything in the data directory
	close  func() error
}

// begin resolves the common flags, reads the configuration file and opens the log. If logName
// is not "", records are also written to a log file of that name in the data directory.
func begin(p Process, flags *config.CommonFlags, logName string) (*setup, error) {
	return beginWith(p, flags, logName, config.ReadFile)
}

// beginWith is like begin, but reads the configuration file with the function read.
func beginWith(
	p Process, flags *config.CommonFlags, logName string, read func(path string) (config.File, []string, error),
) (*setup, error) {
	dir, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	common, err := flags.Resolve(dir)
	if err != nil {
		return nil, usageError{err}
	}
	file, warnings, err := read(common.ConfigFile())
	if err != nil {
		return nil, err
	}
	boundMemory(p)
	s := &setup{common: common, file: file, build: build.Read(version), screen: newScreen(p), close: func() error { return nil }}
	if err := s.openLog(p, logName); err != nil {
		return nil, err
	}
	if logName != "" { // not for the parent process of a server, whose worker has the same flags
		if err := s.profile(); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	for _, w := range warnings {
		s.logger.Warn(w)
	}
	return s, nil
}

func (s *setup) openLog(p Process, name string) error {
	terminal := p.terminal || isTerminal(p.Stderr)
	o := telemetry.LogOptions{
		Console: s.screen, Color: terminal && p.mayColor(), Time: s.common.Timestamp,
		Verbose: s.common.Verbose, Silent: s.common.Silent, Label: s.common.LogLabel,
		JSON: s.common.LogFormat == config.JSONFormat || s.common.LogFormat == config.AutoFormat && !terminal,
	}
	if name != "" {
		file, err := telemetry.OpenLogFile(telemetry.LogFileOptions{Dir: s.common.DataDir + "/logs", Name: name})
		if err != nil {
			return err
		}
		o.File, s.log, s.close = file, file, file.Close
	}
	s.logger = telemetry.NewLogger(o)
	return nil
}

// profile starts a CPU profile if the flags request one. s.close ends the profile.
func (s *setup) profile() error {
	if s.common.CPUProfile == "" {
		return nil
	}
	file, err := os.Create(s.common.CPUProfile)
	if err != nil {
		return fmt.Errorf("create the CPU profile: %w", err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return errors.Join(fmt.Errorf("start the CPU profile: %w", err), file.Close())
	}
	closeLog := s.close
	s.close = func() error {
		pprof.StopCPUProfile()
		return errors.Join(file.Close(), closeLog())
	}
	return nil
}

// security returns the rules that decide which connections to HQ must use TLS.
func (s *setup) security(o config.HQSettings) *hq.Security {
	hosts := tlshosts.In
	if s.looks {
		hosts = tlshosts.Look
	}
	return &hq.Security{Require: o.RequireTLS, Hosts: hosts(s.common.DataDir), Logger: s.logger}
}

// memoryGoal is the soft memory limit of the Go runtime, in bytes. The collector can stay below
// this limit, because pipeline.DefaultBudget limits data in flight to a fraction of memoryGoal. The
// peak memory use of the process is higher, because it includes the program's code and allocations
// during a garbage collection.
const memoryGoal = 112 << 20

// boundMemory sets memoryGoal as the soft memory limit of the Go runtime, unless the
// environment sets another limit. Near the limit, the garbage collector runs more often.
func boundMemory(p Process) {
	if _, set := p.Lookup("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(memoryGoal)
	}
}

// usage turns a config.UsageError into a usageError, so that the program exits with code 3.
func usage(err error) error {
	if errors.As(err, new(*config.UsageError)) {
		return usageError{err}
	}
	return err
}

// hard returns a context with the values of ctx. The first signal does not cancel this context.
func hard(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

func out(cmd *cobra.Command) io.Writer { return cmd.OutOrStdout() }
