package embedded

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
)

// levelServerDebug is where the server's own debug messages go: below ours.
const levelServerDebug = slog.LevelDebug - 4

// repeatAfter is how long a message of the server is not logged again: a remote
// that is refused says so four times a second.
const repeatAfter = 30 * time.Second

// serverLog is the server's logger. Notices are not news to anyone but who is
// debugging; the agent tells the state of links itself.
type serverLog struct {
	log *slog.Logger
	// fatal gets the first message with which the server gives up.
	fatal chan string

	mu   sync.Mutex
	seen map[string]*repeated
	// jetstream is why an account, by public key, has no JetStream or not the limits
	// that its claims ask for. The server says so nowhere else.
	jetstream map[string]string
}

var jetstreamError = regexp.MustCompile(`^Error configuring jetstream for account \[([A-Z0-9]+)[^\]]*\]: (.*)$`)

// deniedInterest is what a peer says of each of our server's own interfaces, all
// denied to links, whenever the claims of a link's account change. The server
// offers them unasked; nothing is wrong.
var deniedInterest = regexp.MustCompile(`Leafnode Error 'Permissions Violation for Subscription to "\$(JS|SYS)\.`)

type repeated struct {
	last  time.Time
	count int
}

func newServerLog(log *slog.Logger) *serverLog {
	return &serverLog{log: log, fatal: make(chan string, 1), seen: map[string]*repeated{}, jetstream: map[string]string{}}
}

func (l *serverLog) debug() bool { return l.log.Enabled(context.Background(), levelServerDebug) }

// Errorf logs, and keeps what says why an account has no JetStream.
func (l *serverLog) Errorf(format string, v ...any) {
	if m := jetstreamError.FindStringSubmatch(fmt.Sprintf(format, v...)); m != nil {
		l.mu.Lock()
		l.jetstream[m[1]] = m[2]
		l.mu.Unlock()
	}
	l.write(slog.LevelError, format, v...)
}

// jetstreamProblem returns what was last said of an account's JetStream.
func (l *serverLog) jetstreamProblem(account string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.jetstream[account]
}

// forgetProblem is called before an account's claims are pushed.
func (l *serverLog) forgetProblem(account string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.jetstream, account)
}

func (l *serverLog) Noticef(format string, v ...any) { l.write(slog.LevelDebug, format, v...) }
func (l *serverLog) Warnf(format string, v ...any)   { l.write(slog.LevelWarn, format, v...) }
func (l *serverLog) Debugf(format string, v ...any)  { l.write(levelServerDebug, format, v...) }
func (l *serverLog) Tracef(format string, v ...any)  { l.write(levelServerDebug, format, v...) }

// Fatalf is called where a server of its own would exit. The process goes on;
// whoever starts the server is told.
func (l *serverLog) Fatalf(format string, v ...any) {
	msg := fmt.Sprintf(format, v...)
	select {
	case l.fatal <- msg:
	default:
	}
	l.write(slog.LevelError, "%s", msg)
}

func (l *serverLog) write(level slog.Level, format string, v ...any) {
	ctx := context.Background()
	if !l.log.Enabled(ctx, level) {
		return
	}
	msg := fmt.Sprintf(format, v...)
	if deniedInterest.MatchString(msg) {
		level = levelServerDebug
	}
	if level >= slog.LevelWarn {
		n, ok := l.admit(msg)
		if !ok {
			return
		}
		if n > 0 {
			l.log.Log(ctx, level, msg, "repeated", n) //nolint:sloglint // the server's own words
			return
		}
	}
	l.log.Log(ctx, level, msg) //nolint:sloglint // the server's own words
}

// admit tells whether a message is to be logged, and how often it was not since
// it last was. Messages that differ in numbers only (ports, connection ids,
// times) count as one.
func (l *serverLog) admit(msg string) (suppressed int, ok bool) {
	key := strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, msg)
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.seen[key]
	if s == nil {
		if len(l.seen) >= 1000 {
			clear(l.seen)
		}
		l.seen[key] = &repeated{last: now}
		return 0, true
	}
	if now.Sub(s.last) < repeatAfter {
		s.count++
		return 0, false
	}
	suppressed, s.count, s.last = s.count, 0, now
	return suppressed, true
}
