// Package cli is the command line: one file a command. It is the only place
// that reads arguments and the environment, prints, prompts, and chooses exit
// codes.
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
	exitRestart = 4 // of a worker: another one has to go on
)

// Process is what the program gets from the system around it.
type Process struct {
	Args           []string // without the program's name
	Lookup         sink.Lookup
	Stdin          *os.File
	Stdout, Stderr io.Writer
	Signals        <-chan os.Signal // interrupts; the second one ends the program at once

	signals  *signals
	terminal bool // whoever shows what is written to Stderr is a terminal, though Stderr is none
	// Executable is the program that runs, "" where the system knows. Exists tells
	// whether there is a file; nil asks the system.
	Executable string
	Exists     func(path string) bool
	// OrphanLimit is how long the program goes on after its parent process is gone; 0
	// is a minute.
	OrphanLimit time.Duration
}

// System returns the real process.
func System() Process {
	// Snowflake's client would ask the clouds' metadata services where it runs. It
	// can be told not to by this alone, which fails only for a malformed name.
	if _, told := os.LookupEnv(askNoCloud); !told {
		_ = os.Setenv(askNoCloud, "true")
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	return Process{Args: os.Args[1:], Lookup: os.LookupEnv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals}
}

const askNoCloud = "SNOWFLAKE_DISABLE_PLATFORM_DETECTION"

// Run runs the command that p.Args name and returns the exit code. The first
// signal asks the command to finish what it holds; the second one makes Run
// return at once, or the third one under the parent process of the reference server.
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
				again = false // that process passes on what the terminal or the service manager sent to both
			case ctx.Err() != nil && p.signals.heeded.Load():
				p.signals.endNow()
				return <-done
			case ctx.Err() != nil:
				fmt.Fprintln(p.Stderr, "eds: stopped at once; what was not finished will be done again at the next start")
				return exitError
			default:
				cancel(interrupted{s})
			}
		}
	}
}

// wrapped reports whether the parent process of the reference server started the
// program. Its flag counts also if others are wrong.
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

// signals is what Run and the command that it runs tell each other about the program's end.
type signals struct {
	heeded  atomic.Bool   // the command ends the program itself, at once, after the second
	second  chan struct{} // closed by endNow
	endNow  func()        // has a command that heeds it end at once
	expired chan struct{} // closed by expire
	expire  func()        // ends the program at once

	mu     sync.Mutex
	asking bool      // a person is asked something: the first one ends the program at once
	first  os.Signal // the one that came while nobody was asked
}

func newSignals() *signals {
	s := &signals{second: make(chan struct{}), expired: make(chan struct{})}
	s.endNow = sync.OnceFunc(func() { close(s.second) })
	s.expire = sync.OnceFunc(func() { close(s.expired) })
	return s
}

// received takes a signal, and reports whether it interrupts a question.
func (s *signals) received(signal os.Signal) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil && !s.asking {
		s.first = signal
	}
	return s.asking
}

// ask says that a person is asked now. The error is the signal that came before, after
// which nobody is asked.
func (s *signals) ask() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		return interrupted{s.first}
	}
	s.asking = true
	return nil
}

// answered says that nobody is asked any more.
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

// silentError is an error whose text has been shown already.
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
		return exitError // after any other code that process starts the program again, five times
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

// codeError is a worker's exit code, which the program takes over; the worker has
// said why.
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
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { _ = newManual(p, out(cmd)).describe(cmd) }) // that nobody reads it is no error
	root.SetHelpCommand(newHelp(p))
	root.AddGroup(groups()...)
	root.AddCommand(in(groupStart, newEnroll(p, common), newImport(p, common), newServer(p, common))...)
	root.AddCommand(in(groupWatch, newStatus(p, common), newDoctor(p, common), newVerify(p, common), newAcceptGap(p, common), newDeadLetters(p, common), newHealth(p, common))...)
	root.AddCommand(in(groupSetUp, newService(p), newUpgrade(p, common), newDownload(p, common), newPublicKey(p), newCompletion(p), newVersion(p))...)
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

var word = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,31}$`)

// quoteWord quotes an argument behind a prefix, unless it may be a key or a URL,
// which errors do not hold.
func quoteWord(prefix, argument string) string {
	if !word.MatchString(argument) {
		argument = "..."
	}
	return strconv.Quote(prefix + argument)
}

// flagError turns pflag's complaint into one that names the flag that was
// probably meant, and quotes no value.
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
		return usagef("unknown flag -%s; a flag of more than one letter begins with --; run %q to see them all", unknown.GetSpecifiedName(), cmd.CommandPath()+" --help")
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

// takesEscapes reports whether w is a terminal that understands escape sequences.
func (p Process) takesEscapes(w any) bool {
	return isTerminal(w) && !p.dumb() && enableEscapes(w.(*os.File))
}

// dumb reports whether the environment says that the terminal understands text only.
func (p Process) dumb() bool {
	name, _ := p.Lookup("TERM")
	return name == "dumb"
}

// mayColor reports whether the environment allows colours on a terminal.
func (p Process) mayColor() bool {
	noColor, _ := p.Lookup("NO_COLOR")
	return noColor == "" && !p.dumb()
}

// bold reports whether headings on standard output are to be bold.
func (p Process) bold() bool { return p.mayColor() && p.takesEscapes(p.Stdout) }
