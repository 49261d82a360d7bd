// A certified OpenID provider with the device flow, for tests: `node provider.mjs`.
//
// It prints its address, and ends when stdin does. Lines on stdin change it:
//   rotate      from now on it signs with a new key, and has only that one
// Each is answered with the same line. Whoever logs in as NAME:GROUP,GROUP is in these groups.

import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { exportJWK, generateKeyPair } from 'jose';
import Provider from 'oidc-provider';

console.info = console.error; // its notices; stdout is for our lines
const lifetime = Number(process.env.LIFETIME ?? 600); // seconds, of ID and access tokens
const audience = process.env.AUDIENCE; // of access tokens; without it they are opaque

let keys = 0;
async function newKey() {
  keys += 1;
  const { privateKey } = await generateKeyPair('RS256', { extractable: true });
  return { ...(await exportJWK(privateKey)), kid: `key-${keys}`, use: 'sig', alg: 'RS256' };
}

function groupsOf(id) {
  return (id.split(':')[1] ?? '').split(',').filter(Boolean);
}

function findAccount(_ctx, id) {
  return {
    accountId: id,
    claims: () => ({ sub: id, preferred_username: id.split(':')[0], groups: groupsOf(id) }),
  };
}

const resources = {
  enabled: true,
  defaultResource: () => audience,
  useGrantedResource: () => true,
  getResourceServerInfo: () => ({
    scope: 'openid profile groups', audience, accessTokenFormat: 'jwt', accessTokenTTL: lifetime,
  }),
};

async function made(issuer) {
  const provider = new Provider(issuer, {
    clients: [{
      client_id: 'knit',
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
      response_types: [],
      redirect_uris: [],
      token_endpoint_auth_method: 'none',
    }],
    claims: { openid: ['sub'], profile: ['preferred_username'], groups: ['groups'] },
    scopes: ['openid', 'offline_access', 'profile', 'groups'],
    conformIdTokenClaims: false, // so that ID tokens have the groups
    extraTokenClaims: (_ctx, token) => token.accountId && {
      groups: groupsOf(token.accountId), preferred_username: token.accountId.split(':')[0],
    },
    features: {
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: audience ? resources : { enabled: false },
    },
    findAccount,
    issueRefreshToken: () => true,
    rotateRefreshToken: true,
    ttl: { IdToken: lifetime, AccessToken: lifetime, DeviceCode: 600, RefreshToken: 3600,
           Grant: 3600, Session: 3600, Interaction: 600 },
    cookies: { keys: ['not a secret'] },
    jwks: { keys: [await newKey()] },
  });
  return provider.callback();
}

// What was issued outlives a change of keys: it is in the memory of this process.
let answer;
const server = createServer((request, response) => answer(request, response));
server.listen(0, '127.0.0.1', async () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  answer = await made(issuer);
  console.log(issuer);
  for await (const line of createInterface({ input: process.stdin })) {
    if (line === 'rotate') answer = await made(issuer);
    console.log(line);
  }
  process.exit(0);
});
