// Package cli is the command line, with one file per command. Only this package reads
// arguments and the environment, prints, prompts, and chooses exit codes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/shopmonkeyus/eds/internal/agent"
	"github.com/shopmonkeyus/eds/internal/config"
	"github.com/shopmonkeyus/eds/internal/sink"
)

// Exit codes, which existing deployments depend on.
const (
	exitOK      = 0
	exitError   = 1
	exitUsage   = 3 // wrong usage, or a destination that fails its test
	exitRestart = 4 // of a worker: another worker has to continue
)

// Process is the program's access to the system around it.
type Process struct {
	Args           []string // without the program's name
	Lookup         sink.Lookup
	Stdin          *os.File
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // interrupts; the second one ends the program at once

	signals  *signals
	terminal bool // a terminal shows Stderr, though Stderr itself is a pipe
	// Executable is the path of the running program; "" asks the system. Exists reports
	// whether a file exists; nil asks the system.
	Executable string
	Exists     func(path string) bool
	// OrphanLimit is how long the program runs after its parent process has ended; 0
	// means a minute.
	OrphanLimit time.Duration
}

// System returns the real process.
func System() Process {
	// Snowflake's client asks the metadata services of clouds for its platform. Only this
	// variable turns that off. Setenv fails only for a malformed name.
	if _, set := os.LookupEnv(noPlatformDetection); !set {
		_ = os.Setenv(noPlatformDetection, "true")
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	return Process{Args: os.Args[1:], Lookup: os.LookupEnv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals}
}

const noPlatformDetection = "SNOWFLAKE_DISABLE_PLATFORM_DETECTION"

// Run runs the command in p.Args and returns the exit code. The first signal asks the
// command to finish its work in order. The second signal, or the third one under the
// parent process of the reference server, makes Run return at once.
func Run(p Process) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	p.signals = newSignals()
	done := make(chan int, 1)
	go func() { done <- execute(ctx, p) }()
	again := p.wrapped()
	for {
		select {
		case code := <-done:
			return code
		case <-p.signals.expired:
			return exitError
		case s := <-p.Signals:
			switch {
			case p.signals.received(s):
				fmt.Fprintf(p.Stderr, "\neds: %v\n", interrupted{s})
				return exitError
			case ctx.Err() != nil && again:
				again = false // that process repeats a signal that was sent to both
			case ctx.Err() != nil && p.signals.handlesSecond.Load():
				p.signals.endNow()
				return <-done
			case ctx.Err() != nil:
				fmt.Fprintln(p.Stderr, "eds: stopped at once; unfinished work is repeated at the next start")
				return exitError
			default:
				cancel(interrupted{s})
			}
		}
	}
}

// wrapped reports whether the parent process of the reference server started the
// program. Its flag counts even if other flags are wrong.
func (p Process) wrapped() bool {
	return slices.ContainsFunc(p.Args, func(arg string) bool {
		return arg == "--"+config.WrapperFlag || arg == "--"+config.WrapperFlag+"=true"
	})
}

// executable returns the path of this program.
func (p Process) executable() (string, error) {
	if p.Executable != "" {
		return p.Executable, nil
	}
	return os.Executable()
}

// signals coordinates the program's end between Run and the command that it runs.
type signals struct {
	handlesSecond atomic.Bool   // the command itself ends the program at once after the second signal
	second        chan struct{} // closed by endNow
	endNow        func()        // ends a command that handles the second signal
	expired       chan struct{} // closed by expire
	expire        func()        // ends the program at once

	mu     sync.Mutex
	asking bool      // a prompt waits for its answer: the first signal ends the program at once
	first  os.Signal // the signal that came while no prompt was open
}

func newSignals() *signals {
	s := &signals{second: make(chan struct{}), expired: make(chan struct{})}
	s.endNow = sync.OnceFunc(func() { close(s.second) })
	s.expire = sync.OnceFunc(func() { close(s.expired) })
	return s
}

// received records a signal, and reports whether it interrupts a prompt.
func (s *signals) received(signal os.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil && !s.asking {
		s.first = signal
	}
	return s.asking
}

// ask marks a prompt as open. If a signal came before, it returns that as the error, and
// the prompt must not open.
func (s *signals) ask() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		return interrupted{s.first}
	}
	s.asking = true
	return nil
}

// answered marks the prompt as closed.
func (s *signals) answered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asking = false
}

// interrupted is the cause of a context that a signal cancelled.
type interrupted struct{ signal os.Signal }

func (i interrupted) Error() string {
	if i.signal == os.Interrupt {
		return "interrupted"
	}
	return "ended by a signal (" + i.signal.String() + ")"
}

// usageError is an error that asks for exit code 3.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// silentError is an error whose text was printed already.
type silentError struct{ error }

func (e silentError) Unwrap() error { return e.error }

func execute(ctx context.Context, p Process) int {
	root := newRoot(p)
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !errors.As(err, new(silentError)) && !errors.As(err, new(codeError)) && !errors.Is(err, agent.ErrReplaced) {
		fmt.Fprintf(p.Stderr, "eds: %v\n", err)
	}
	if p.wrapped() {
		return exitError // after any other code that process restarts the program, five times
	}
	return exitCode(err)
}

// exitCode returns the exit code of a command that ended with err.
func exitCode(err error) int {
	coded := new(codeError)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, coded):
		return int(*coded)
	case errors.As(err, new(usageError)):
		return exitUsage
	case errors.Is(err, agent.ErrReplaced):
		return exitRestart
	}
	return exitError
}

// codeError is a worker's exit code, which the program returns as its own. The worker has
// printed the reason.
type codeError int

func (c codeError) Error() string { return fmt.Sprintf("the worker ended with %d", int(c)) }

func newRoot(p Process) *cobra.Command {
	root := &cobra.Command{
		Use:   "eds",
		Short: "Keep a database of your own equal to your Shopmonkey data",
		Long: `eds copies your data into a database that you own (eds import) and then follows
every change (eds server), into databases, streams, object stores and files.

Try it with nothing installed:   eds demo
See the destinations:            eds server help`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	common := config.BindCommon(root.PersistentFlags())
	root.SetHelpFunc(
		func(cmd *cobra.Command, _ []string) { _ = newManual(p, out(cmd)).describe(cmd) },
	) // a closed output is no error here
	root.SetHelpCommand(newHelp(p))
	root.AddGroup(groups()...)
	root.AddCommand(in(groupStart, newEnroll(p, common), newImport(p, common), newServer(p, common))...)
	root.AddCommand(in(groupWatch, newStatus(p, common), newDoctor(p, common), newVerify(p, common),
		newAcceptGap(p, common), newDeadLetters(p, common), newHealth(p, common))...)
	root.AddCommand(in(groupSetUp, newService(p), newUpgrade(p, common), newDownload(p, common),
		newPublicKey(p), newCompletion(p), newVersion(p))...)
	root.AddCommand(in(groupTry, newDemo(p), newHQ(p, common))...)
	root.AddCommand(newWorker(p), newMan(p))
	return root
}

func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	hint := fmt.Sprintf("run %q to see the commands", cmd.Root().Name()+" help")
	if best := sink.Nearest(name, names); best != "" {
		hint = fmt.Sprintf("did you mean %q?", cmd.CommandPath()+" "+best)
	}
	return usagef("unknown command %s; %s", quoteWord(cmd.CommandPath()+" ", name), hint)
}

var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,31}$`)

// quoteWord quotes prefix and argument. It replaces an argument that may be a key or a
// URL by dots: errors must not contain those.
func quoteWord(prefix, argument string) string {
	if !plainWord.MatchString(argument) {
		argument = "..."
	}
	return strconv.Quote(prefix + argument)
}

// flagError turns pflag's error into one that suggests the closest flag, and quotes no
// value.
func flagError(cmd *cobra.Command, err error) error {
	unknown, invalid := new(pflag.NotExistError), new(pflag.InvalidValueError)
	switch {
	case errors.As(err, &invalid):
		why := invalid.Unwrap()
		if errors.As(why, new(*strconv.NumError)) {
			why = fmt.Errorf("want a value of type %s", invalid.GetFlag().Value.Type())
		}
		return usagef("--%s: %w", invalid.GetFlag().Name, why)
	case !errors.As(err, &unknown):
		return usageError{err}
	case unknown.GetSpecifiedShortnames() != "":
		return usagef("unknown flag -%s; a flag of more than one letter begins with --; run %q to see them all",
			unknown.GetSpecifiedName(), cmd.CommandPath()+" --help")
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if best := sink.Nearest(unknown.GetSpecifiedName(), names); best != "" {
		return usagef("%s: unknown flag %q; did you mean %q?", cmd.CommandPath(), "--"+unknown.GetSpecifiedName(), "--"+best)
	}
	return usagef("%w; run %q to see them all", err, cmd.CommandPath()+" --help")
}

// noArgs refuses arguments, naming the first.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && cmd.HasSubCommands() {
		return unknownCommand(cmd, args[0])
	}
	if len(args) > 0 {
		return usagef("%s takes no arguments, but got %s", cmd.CommandPath(), quoteWord("", args[0]))
	}
	return nil
}

// isTerminal reports whether w is a terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// takesEscapes reports whether w is a terminal that supports escape sequences.
func (p Process) takesEscapes(w any) bool {
	return isTerminal(w) && !p.dumb() && enableEscapes(w.(*os.File))
}

// dumb reports whether the environment describes a terminal that shows plain text only.
func (p Process) dumb() bool {
	name, _ := p.Lookup("TERM")
	return name == "dumb"
}

// mayColor reports whether the environment allows colours on a terminal.
func (p Process) mayColor() bool {
	noColor, _ := p.Lookup("NO_COLOR")
	return noColor == "" && !p.dumb()
}

// bold reports whether to print headings on standard output in bold.
func (p Process) bold() bool { return p.mayColor() && p.takesEscapes(p.Stdout) }
